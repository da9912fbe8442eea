import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.lowrank import Budget, Energy, Vbmf
from pipeline.lowrank.ranks import Spectrum
from pipeline.lowrank.vbmf import noise_variance, signal_rank, threshold


def noisy(shape: tuple[int, int], rank: int, noise: float, seed: int = 0) -> np.ndarray:
    """A matrix of that rank, whose entries have a variance of about 1, and noise."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(shape[0], rank)), rng.normal(size=(rank, shape[1]))
    return a @ b / max(rank, 1) ** 0.5 + noise * rng.normal(size=shape)


def values(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.svd(matrix, compute_uv=False)


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=12), st.floats(0, 1))
def test_energy_is_the_least_rank_that_keeps_the_share(given_values: list[float], share: float) -> None:
    descending = sorted(given_values, reverse=True)
    total = sum(v * v for v in descending)
    rank, kept = 0, 0.0
    while rank == 0 or (kept < share * total * (1 - 1e-12) and rank < len(descending)):
        kept += descending[rank] ** 2
        rank += 1
    found = Energy(share).rank(Spectrum(np.array(descending), (12, 12)))
    assert abs(found - rank) <= (abs(kept - share * total) < 1e-9 * total)


@pytest.mark.parametrize("shape", [(40, 40), (32, 288), (288, 32), (64, 100)])
@pytest.mark.parametrize("rank", [1, 5, 12])
@pytest.mark.parametrize("noise", [0.01, 0.2])
def test_vbmf_finds_the_rank_below_the_noise(shape: tuple[int, int], rank: int, noise: float) -> None:
    assert signal_rank(values(noisy(shape, rank, noise)), shape) == rank


def test_vbmf_estimates_the_noise() -> None:
    s = values(noisy((50, 200), 6, 0.3)) ** 2
    assert noise_variance(s, (50, 200), threshold(0.25)) == pytest.approx(0.3**2, rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_vbmf_finds_nothing_in_noise(seed: int) -> None:
    assert signal_rank(values(noisy((60, 90), 0, 1.0, seed)), (60, 90)) == 0


def test_vbmf_does_not_depend_on_scale_or_orientation() -> None:
    matrix = noisy((30, 70), 7, 0.5)
    expected = signal_rank(values(matrix), (30, 70))
    assert [signal_rank(values(1e-4 * matrix.T), (70, 30)), signal_rank(values(1e5 * matrix), (30, 70))] == [
        expected
    ] * 2


def test_vbmf_of_exact_rank_zeros_and_a_row() -> None:
    assert signal_rank(values(noisy((20, 30), 4, 0.0)), (20, 30)) == 4
    assert signal_rank(np.zeros(5), (5, 8)) == 0
    assert Vbmf().rank(Spectrum.of(np.ones((1, 6)))) == 1


@pytest.mark.parametrize("alpha", [0.05, 0.3, 1.0])
def test_the_threshold_is_where_the_free_energy_of_a_component_turns(alpha: float) -> None:
    """By the form of JMLR 2013: a component is kept where its change of the free energy is not positive."""
    large = 1000
    small = alpha * large

    def change(square: float) -> float:
        """With noise of variance 1; `square` is that of the singular value."""
        root = np.sqrt((square - (small + large)) ** 2 - 4 * small * large)
        prior = (square - (small + large) + root) / (2 * small * large)  # c_a² c_b²
        shrunk = np.sqrt(square) * (1 - (small + large) / square + root / square) / 2
        product = np.sqrt(square) * shrunk
        gain = -2 * product + small * large * prior
        return float(large * np.log(product / large + 1) + small * np.log(product / small + 1) + gain)

    limit = threshold(alpha) * large
    assert limit > (np.sqrt(small) + np.sqrt(large)) ** 2
    assert change(limit * 1.001) < 0 < change(limit * 0.999)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Energy(1.2), "energy: the share to keep lies between 0 and 1, got 1.2"),
        (lambda: Energy(float("nan")), "energy"),
        (lambda: Budget(0), "budget: the share of the model that may stay"),
        (lambda: Budget(0.5, "bytes"), "of: a budget is of 'macs' or 'params', got 'bytes'"),
    ],
)
def test_impossible_rules(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
