"""What pruning took from a model, layer by layer, as data: the picture and the table are drawn from it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

FIGURE = "cut"  # its key among a stage's figures


@dataclass(frozen=True)
class Layer:
    """One layer before and after. Widths are output channels, multiply-accumulates those of one run.

    A product of activations has no width, 0 both times; a layer that is gone has the width 0 after.
    """

    name: str
    width_before: int
    width_after: int
    macs_before: int
    macs_after: int

    @property
    def changed(self) -> bool:
        """Whether it got narrower, or cheaper because what it reads did."""
        return (self.width_before, self.macs_before) != (self.width_after, self.macs_after)


@dataclass(frozen=True)
class Cut:
    """A model before and after pruning; layers are in the order in which they first run."""

    layers: tuple[Layer, ...]
    params_before: int
    params_after: int

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-accumulates before and after."""
        return sum(layer.macs_before for layer in self.layers), sum(layer.macs_after for layer in self.layers)

    @property
    def params(self) -> tuple[int, int]:
        """Parameters before and after."""
        return self.params_before, self.params_after

    def figure(self) -> dict[str, Any]:
        """Return it as plain data, for a stage's figures."""
        return asdict(self)


def read(figures: Mapping[str, Any]) -> Cut:
    """Return the cut among a stage's figures. Raises KeyError for a stage that did not prune."""
    return _ADAPTER.validate_python(figures[FIGURE])


def change(before: int, after: int, written: Callable[[int], str] = str) -> str:
    """Return a figure before and after: "64 → 40", or "64" where it is the same."""
    return written(before) if before == after else f"{written(before)} → {written(after)}"


def share(before: int, after: int) -> str:
    """Return by how much a figure changed, in percent: "−45.3%"; "" where there was nothing."""
    return f"{100 * (after - before) / before:+.1f}%".replace("-", "−").replace("+0.0%", "0%") if before else ""


_ADAPTER = TypeAdapter(Cut)
