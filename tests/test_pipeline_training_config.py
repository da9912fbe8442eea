from dataclasses import replace
from itertools import pairwise

import pytest

from pipeline.errors import UserError
from pipeline.options import Where, model_of, validate, values
from pipeline.training.config import Training, rate


def test_the_rate_warms_up_then_falls_along_a_cosine_to_zero():
    config = Training(epochs=10, lr=0.4, warmup=2)
    rates = [rate(config, step, 5) for step in range(50)]
    assert rates[:10] == pytest.approx([0.04 * (i + 1) for i in range(10)])
    assert rates[10] == 0.4
    assert rates[30] == pytest.approx(0.2)
    assert 0 < rates[-1] < 0.001
    assert all(a >= b for a, b in pairwise(rates[9:]))


def test_a_run_shorter_than_its_warm_up_only_warms_up():
    assert rate(Training(epochs=1, lr=1.0, warmup=3), 3, 4) == pytest.approx(4 / 12)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", -1),
        ("epochs", 1.5),
        ("batch_size", 0),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("momentum", 1.0),
        ("weight_decay", -1e-4),
        ("warmup", -1),
        ("label_smoothing", 1.0),
        ("seed", -1),
        ("epoch_size", 0),
        ("precision", "int8"),
    ],
)
def test_impossible_settings_are_one_line_with_the_key(field, value):
    with pytest.raises(UserError, match=f"^r.yaml: finetune.{field}: ") as error:
        validate(model_of(Training), {field: value}, Where("r.yaml", ("finetune",)))
    assert "\n" not in str(error.value)


def test_what_a_recipe_says_is_what_trains():
    given = {"epochs": 3, "lr": 1, "epoch_size": 512, "precision": "bf16"}
    config = Training(**values(validate(model_of(Training), given, Where("r.yaml"))))
    assert config == replace(Training(), **given)
