import math

import numpy as np
import pytest
import torch

from pipeline.training.relations import angle_loss, angles, distance_loss, distances


def embeddings(n: int, width: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, width))).to(dtype)


def huber(a: float, b: float) -> float:
    d = abs(a - b)
    return 0.5 * d * d if d < 1 else d - 0.5


def slow_distances(x: np.ndarray) -> list[list[float]]:
    n = len(x)
    raw = [[math.sqrt(sum((a - b) ** 2 for a, b in zip(x[i], x[j], strict=True))) for j in range(n)] for i in range(n)]
    positive = [d for row in raw for d in row if d > 0]
    mean = sum(positive) / len(positive)
    return [[d / mean for d in row] for row in raw]


def slow_angle(x: np.ndarray, i: int, j: int, k: int) -> float:
    a, b = x[j] - x[i], x[k] - x[i]
    lengths = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return float(a @ b) / lengths if lengths else 0.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_distances_equal_plain_loops(dtype: torch.dtype) -> None:
    student, teacher = embeddings(7, 3, 0, dtype), 5 * embeddings(7, 6, 1, dtype)
    ours, theirs = slow_distances(student.double().numpy()), slow_distances(teacher.double().numpy())
    np.testing.assert_allclose(distances(student).numpy(), ours, atol=1e-5)
    expected = sum(huber(ours[i][j], theirs[i][j]) for i in range(7) for j in range(7)) / 49
    assert float(distance_loss(student, teacher)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_angles_equal_plain_loops(dtype: torch.dtype) -> None:
    student, teacher = embeddings(6, 4, 0, dtype), embeddings(6, 2, 1, dtype)
    places = [(i, j, k) for i in range(6) for j in range(6) for k in range(6)]
    x, y = student.double().numpy(), teacher.double().numpy()
    found = angles(student)
    for place in places:
        assert float(found[place]) == pytest.approx(slow_angle(x, *place), abs=1e-5)
    expected = sum(huber(slow_angle(x, *p), slow_angle(y, *p)) for p in places) / len(places)
    assert float(angle_loss(student, teacher)) == pytest.approx(expected, abs=1e-5)


def test_relations_ignore_shift_and_scale_and_angles_rotation_too() -> None:
    x = embeddings(5, 4, 0)
    rotation = torch.linalg.qr(embeddings(4, 4, 9)).Q
    moved = 3 * x @ rotation + 7
    assert float(distance_loss(moved, x)) == pytest.approx(0, abs=1e-12)
    assert float(angle_loss(moved, x)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
def test_the_gradient_is_that_of_finite_differences(loss) -> None:
    x, teacher = embeddings(4, 3, 0).requires_grad_(), embeddings(4, 5, 1)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (x,))


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
@pytest.mark.parametrize("collapsed", [2, 5])
def test_samples_that_coincide_give_finite_gradients(loss, collapsed: int) -> None:
    x = embeddings(5, 3, 0, torch.float32)
    x[:collapsed] = x[0]
    x.requires_grad_()
    torch.autograd.backward(loss(x, embeddings(5, 3, 1, torch.float32)))
    assert x.grad is not None
    assert x.grad.abs().max() < 100
