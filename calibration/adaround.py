"""The optimisation inside AdaRound: which weights of one layer to round up, which down. numpy only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calibration.qparams import LIMIT

Array = NDArray[np.floating]

# The rectified sigmoid reaches 0 and 1 at finite V (section 3.2 of the paper).
_STRETCH, _SHIFT = 1.2, -0.1
_FIRST_BETA, _LAST_BETA = 20.0, 2.0
_WARM_UP = 0.2  # share of the iterations before the regulariser sets in
_TRAVEL = 10.0  # how far an entry of V may go in all: |V| is 2.4 where rounding is decided
_LEAST_RATE = 1e-3
_MOMENTS = (0.9, 0.999)  # Adam's


@dataclass(frozen=True)
class Problem:
    """A layer as a product: `output = data · (scale · integers)ᵀ + bias`.

    Outputs are compared as the following activation clips them, to [low, high], and in units of `unit`, their
    root mean square, so that the weight of the regulariser means the same in every layer.
    """

    data: Array  # (groups, rows, width): what the layer reads in the rounded network
    target: Array  # (rows, channels): what it computes in the float network
    weight: Array  # (groups, channels of a group, width), in steps of its scale
    scale: Array  # (groups, channels of a group, 1)
    bias: Array  # (channels,)
    low: float  # what the following activation clips to
    high: float
    unit: float

    def some(self, rows: NDArray[np.int64]) -> "Problem":
        """The problem on some of its rows."""
        return replace(self, data=self.data[:, rows], target=self.target[rows])

    def nearest(self) -> Array:
        """The integers that round to nearest."""
        return np.clip(np.rint(self.weight), -LIMIT, LIMIT)

    def errors(self, integers: Array) -> Array:
        """Mean squared error of each channel, `(channels,)`, in units of the target."""
        difference = self._difference(self._outputs(integers))
        return np.asarray(np.square(difference).mean(axis=0) / self.unit**2)

    def loss_and_gradient(self, logits: Array, beta: float, strength: float) -> tuple[float, Array]:
        """Squared error summed over channels, plus `strength · Σ (1 − |2h − 1|^β)`; and its gradient by V."""
        sigmoid = _sigmoid(logits)
        wide = sigmoid * _STRETCH + _SHIFT
        h = np.clip(wide, 0, 1)
        soft = np.floor(self.weight) + h
        integers = np.clip(soft, -LIMIT, LIMIT)
        outputs = self._outputs(integers)
        difference = self._difference(outputs)
        loss = float(np.square(difference).sum() / (len(difference) * self.unit**2))
        passes = (outputs > self.low) & (outputs < self.high)
        by_output = difference * passes * (2 / (len(difference) * self.unit**2))
        gradient = self._by_weight(by_output) * self.scale * (soft == integers)
        if strength:
            distance = 2 * h - 1
            size = np.abs(distance)
            loss += strength * float((1 - size**beta).sum())
            gradient = gradient - strength * 2 * beta * size ** (beta - 1) * np.sign(distance)
        inside = (wide > 0) & (wide < 1)
        return loss, np.asarray(gradient * (_STRETCH * sigmoid * (1 - sigmoid)) * inside, logits.dtype)

    def flipped(self, integers: Array, sweeps: int = 3) -> Array:
        """Round single weights the other way, one after the other, as long as that lowers the error.

        The error before the activation, which is a quadratic form: its gradient is kept up to date. It also
        tells weights apart that the same data makes alike, which the gradient of the soft rounding cannot.
        """
        rows = self.data.shape[1]
        grams = self.data.swapaxes(1, 2) @ self.data / rows
        slope = self._by_weight((self.target - self._outputs(integers)) / rows)
        down = np.clip(np.floor(self.weight), -LIMIT, LIMIT - 1)
        found = integers.copy()
        for _ in range(sweeps):
            before = found.copy()
            for k in range(found.shape[2]):
                step = np.where(found[:, :, k] == down[:, :, k], 1.0, -1.0) * self.scale[:, :, 0]
                change = step * (step * grams[:, k, k, None] - 2 * slope[:, :, k])
                step = np.where(change < 0, step, 0.0).astype(found.dtype)
                found[:, :, k] += np.sign(step)
                slope -= step[:, :, None] * grams[:, None, k]
            if (found == before).all():
                break
        return found

    def _difference(self, outputs: Array) -> Array:
        return np.clip(outputs, self.low, self.high) - np.clip(self.target, self.low, self.high)

    def _outputs(self, integers: Array) -> Array:
        product = self.data @ (integers * self.scale).swapaxes(1, 2)
        return product.transpose(1, 0, 2).reshape(self.data.shape[1], -1) + self.bias

    def _by_weight(self, by_output: Array) -> Array:
        groups = self.data.shape[0]
        grouped = by_output.reshape(len(by_output), groups, -1).transpose(1, 2, 0)
        return np.asarray(grouped @ self.data)


@dataclass(frozen=True)
class Annealing:
    """How long to search, and how."""

    iterations: int = 1000
    rows: int = 256  # of a step
    strength: float = 0.01  # λ


def first_logits(problem: Problem) -> Array:
    """V at which h(V) is what rounding down takes off: the float weight itself."""
    share = problem.weight - np.floor(problem.weight)
    inner = (share - _SHIFT) / _STRETCH
    return np.asarray(np.log(inner / (1 - inner)), problem.weight.dtype)


def solve(problem: Problem, annealing: Annealing, seed: int) -> NDArray[np.int8]:
    """Integers with the least error that is found, of each weight's two neighbours on the grid.

    Adam on the soft rounding, as in the paper; then single weights are flipped while that helps.

    No channel gets worse on the problem's rows than with every weight rounded to nearest.
    """
    logits = first_logits(problem)
    first, second = np.zeros_like(logits), np.zeros_like(logits)
    rate = max(_LEAST_RATE, _TRAVEL / annealing.iterations)
    chosen = _draws(problem.data.shape[1], annealing, seed)
    for i, rows in enumerate(chosen):
        beta, strength = _schedule(i / annealing.iterations, annealing.strength)
        _, gradient = problem.some(rows).loss_and_gradient(logits, beta, strength)
        first += (1 - _MOMENTS[0]) * (gradient - first)
        second += (1 - _MOMENTS[1]) * (np.square(gradient) - second)
        unbiased = first / (1 - _MOMENTS[0] ** (i + 1))
        spread = np.sqrt(second / (1 - _MOMENTS[1] ** (i + 1)))
        logits -= rate * unbiased / (spread + 1e-8)
    found = np.clip(np.floor(problem.weight) + (logits >= 0), -LIMIT, LIMIT)
    return _best(problem, [problem.nearest(), found, problem.flipped(found)])


def _best(problem: Problem, candidates: Sequence[Array]) -> NDArray[np.int8]:
    """Per channel, the candidate that errs least on all rows; the first of those that err alike."""
    errors = np.stack([problem.errors(candidate) for candidate in candidates])
    wins = errors.argmin(axis=0).reshape(problem.weight.shape[:2])
    stacked = np.stack(candidates)
    return np.asarray(np.take_along_axis(stacked, wins[None, :, :, None], axis=0)[0], np.int8)


def _draws(rows: int, annealing: Annealing, seed: int) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    for _ in range(annealing.iterations):
        yield rng.integers(0, rows, min(rows, annealing.rows))


def _schedule(share: float, strength: float) -> tuple[float, float]:
    """β and λ when `share` of the iterations are done."""
    if share < _WARM_UP:
        return _FIRST_BETA, 0.0
    left = 1 - (share - _WARM_UP) / (1 - _WARM_UP)
    return _LAST_BETA + (_FIRST_BETA - _LAST_BETA) * left, strength


def _sigmoid(values: Array) -> Array:
    return 1 / (1 + np.exp(-values))
