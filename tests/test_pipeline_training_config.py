from dataclasses import replace

import pytest

from pipeline.errors import UserError
from pipeline.options import Where, model_of, validate, values
from pipeline.training.config import Training


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
        ("optimizer", "sdg"),
        ("schedule", "cos"),
        ("milestones.1", (0.5, 1.5)),
        ("gamma", 0.0),
        ("mixup", -0.1),
        ("cutmix", float("nan")),
        ("ema", 1.0),
        ("devices", 0),
        ("devices", "all"),
        ("devices", True),
    ],
)
def test_impossible_settings_are_one_line_with_the_key(field, value):
    with pytest.raises(UserError, match=f"^r.yaml: finetune.{field}: ") as error:
        validate(model_of(Training), {field.partition(".")[0]: value}, Where("r.yaml", ("finetune",)))
    assert "\n" not in str(error.value)


def test_what_a_recipe_says_is_what_trains():
    given = {"epochs": 3, "lr": 1, "epoch_size": 512, "precision": "bf16", "devices": 4}
    config = Training(**values(validate(model_of(Training), given, Where("r.yaml"))))
    assert config == replace(Training(), **given)
    assert validate(model_of(Training), {"devices": "auto"}, Where("r.yaml")).devices == "auto"
