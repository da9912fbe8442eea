import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training_runs import DATA, QUICK, Interrupting, equal, make_model, weights

from pipeline.errors import UserError
from pipeline.training.config import Distillation
from pipeline.training.distill import Distilled, embedding, response_loss
from pipeline.training.loop import BEST, LAST, fit
from pipeline.training.relations import angle_loss, distance_loss

EXAMPLE = torch.from_numpy(DATA.calibration[:2][0])
ALL = Distillation(response=0.5, hard=0.3, feature=2, relation_distance=3, relation_angle=4)


def value(loss):
    return loss.detach().item()


def distilled(student, settings=ALL, width=6, training=QUICK):
    return Distilled(settings, training, student, make_model(width), EXAMPLE)


def test_the_response_loss_equals_plain_loops():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(5, 4)) * 3, rng.normal(size=(5, 4)) * 3
    t, total = 4.0, 0.0
    for s_row, t_row in zip(student, teacher, strict=True):
        ps = [math.exp(v / t) / sum(math.exp(w / t) for w in s_row) for v in s_row]
        pt = [math.exp(v / t) / sum(math.exp(w / t) for w in t_row) for v in t_row]
        total += sum(q * math.log(q / p) for p, q in zip(ps, pt, strict=True))
    found = response_loss(torch.from_numpy(student), torch.from_numpy(teacher), t)
    assert value(found) == pytest.approx(t * t * total / 5, abs=1e-5)
    assert value(response_loss(torch.from_numpy(teacher), torch.from_numpy(teacher), t)) == pytest.approx(0, abs=1e-6)


def test_the_feature_loss_equals_plain_loops():
    student = make_model()
    objective = distilled(student, Distillation(response=0, hard=0, feature=1, taps=("1.layer2",)))
    (regressor,) = objective.regressors
    student.eval()
    x = torch.from_numpy(DATA.validation[:3][0])
    found = value(objective(student, x, torch.zeros(3, dtype=torch.int64)))
    stages = []
    for net in (student, objective.teacher):
        r = net[1]
        stages.append(r.layer2(r.layer1(r.relu(r.bn1(r.conv1(x))))).detach().double().numpy())
    ours, theirs = stages
    w, b = regressor.weight.detach().double().numpy(), regressor.bias.detach().double().numpy()
    assert w.shape == (12, 8)
    squares = [
        (sum(w[c, d] * ours[n, d, i, j] for d in range(8)) + b[c] - theirs[n, c, i, j]) ** 2
        for n in range(3)
        for c in range(12)
        for i in range(4)
        for j in range(4)
    ]
    assert found == pytest.approx(sum(squares) / len(squares), abs=1e-5)


@pytest.mark.parametrize("soft", [False, True])
def test_the_loss_is_the_weighted_sum_of_its_parts(soft):
    student = make_model().eval()
    training = replace(QUICK, label_smoothing=0.1)
    objective = distilled(student, training=training)
    x, y = (torch.from_numpy(part) for part in DATA.validation[:8])
    target = nn.functional.one_hot(y, 4) * 0.7 + 0.075 if soft else y

    def alone(**given):
        none = {"response": 0, "hard": 0, "feature": 0, "relation_distance": 0, "relation_angle": 0}
        part = copy.copy(objective)
        part.__dict__["settings"] = replace(ALL, **{**none, **given})
        return value(part(student, x, target))

    parts = {"response": 0.5, "feature": 2.0, "relation_distance": 3.0, "relation_angle": 4.0}
    hard = value(nn.functional.cross_entropy(student(x), target, label_smoothing=0.1))
    expected = 0.3 * hard + sum(weight * alone(**{name: 1}) for name, weight in parts.items())
    assert value(objective(student, x, target)) == pytest.approx(expected, abs=1e-5)


def test_relations_are_of_what_the_classifier_sees():
    student = make_model().eval()
    x, y = (torch.from_numpy(part) for part in DATA.validation[:8])
    found = []
    for kind in ("relation_distance", "relation_angle"):
        objective = distilled(student, Distillation(response=0, hard=0, **{kind: 1}))
        found.append(value(objective(student, x, y)))
    pooled = []
    for net in (student, objective.teacher):
        r = net[1]
        pooled.append(r.layer3(r.layer2(r.layer1(r.relu(r.bn1(r.conv1(x)))))).mean((2, 3)))
    assert found == pytest.approx([value(distance_loss(*pooled)), value(angle_loss(*pooled))], abs=1e-5)


def test_relations_without_a_common_module_are_of_the_answers():
    class Bare(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.add_module(name, nn.Linear(64, 4))

        def forward(self, x):
            return next(self.children())(x.flatten(1))

    x, y = (torch.from_numpy(part) for part in DATA.validation[:8])
    settings = Distillation(response=0, hard=0, relation_distance=1)
    one, other = Bare("one"), Bare("other")
    objective = Distilled(settings, QUICK, one, other, EXAMPLE)
    assert value(objective(one, x, y)) == pytest.approx(value(distance_loss(one(x), other(x))), abs=1e-6)
    with pytest.raises(UserError, match=r"^distill\.feature: teacher and student have no module .*leave feature at 0"):
        Distilled(Distillation(feature=1), QUICK, one, other, EXAMPLE)


def test_an_embedding_of_tokens_is_their_mean():
    (tap,) = distilled(make_model(), Distillation(relation_angle=1, taps=("1.layer3",))).taps
    tokens = torch.randn(2, 5, 3)
    expected = [[sum(tokens[n, t, c] for t in range(5)) / 5 for c in range(3)] for n in range(2)]
    assert torch.allclose(embedding(tokens, replace(tap, dim=2)), torch.tensor(expected))
    assert torch.equal(embedding(tokens[:, 0], tap), tokens[:, 0])


def test_a_student_learns_from_its_teacher_alone(tmp_path):
    """Labels have no weight: what it knows about the classes in the end, the teacher told it."""
    teacher, student = make_model(6), make_model()
    fit(teacher, DATA, replace(QUICK, epochs=10), tmp_path / "teacher")
    before = weights(teacher)
    objective = Distilled(Distillation(response=1, hard=0, feature=1), QUICK, student, teacher, EXAMPLE)
    start = weights(objective.regressors)
    history = fit(student, DATA, replace(QUICK, epochs=10), tmp_path / "student", objective=objective)
    assert history.epochs[history.best].validation.top1 > 0.9
    assert equal(weights(teacher), before)  # its BatchNorm statistics too
    assert not any(torch.equal(tensor, start[name]) for name, tensor in weights(objective.regressors).items())


def test_an_interrupted_distillation_resumes_bit_for_bit(tmp_path):
    ends = []
    for folder, stops in (("whole", ()), ("cut", (6, 5))):
        for after in (*stops, None):
            student = make_model()
            progress = Interrupting(after or 10**9)
            try:
                fit(student, DATA, QUICK, tmp_path / folder, progress, distilled(student))
            except KeyboardInterrupt:
                assert after
        ends.append((weights(student), [(tmp_path / folder / name).read_bytes() for name in (LAST, BEST)]))
    assert equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


def test_the_checkpoint_holds_the_regressors_but_no_teacher_and_the_result_neither(tmp_path):
    student = make_model()
    fit(student, DATA, replace(QUICK, epochs=1), tmp_path, objective=distilled(student))
    names = set(load_file(tmp_path / LAST))
    assert {"objective.regressors.0.weight", "optimizer.momentum_buffer.objective.regressors.2.bias"} <= names
    assert not any("teacher" in name for name in names)
    assert set(load_file(tmp_path / BEST)) == set(make_model().state_dict()) == set(student.state_dict())
    assert not any(module._forward_hooks for module in student.modules())


@pytest.mark.parametrize("change", ["settings", "teacher", "none"])
def test_a_checkpoint_of_another_distillation_is_refused(tmp_path, change):
    def run(settings=ALL, teacher_bias=0.0, plain=False):
        student = make_model()
        objective = distilled(student, settings)
        objective.teacher[1].fc.bias.data += teacher_bias
        fit(student, DATA, replace(QUICK, epochs=1), tmp_path, objective=None if plain else objective)

    run()
    changed = {"settings": {"settings": replace(ALL, temperature=2)}, "teacher": {"teacher_bias": 1.0}}
    with pytest.raises(UserError, match="give another folder"):
        run(**changed.get(change, {"plain": True}))


def test_bf16_distils_with_losses_in_f32(tmp_path):
    student = make_model()
    history = fit(student, DATA, replace(QUICK, precision="bf16"), tmp_path, objective=distilled(student))
    assert history.epochs[-1].loss < history.epochs[0].loss
    assert {p.dtype for p in student.parameters()} == {torch.float32}
