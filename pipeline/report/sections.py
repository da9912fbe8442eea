"""Layers under the part of the network that they belong to: a stage, a block, or the whole of a small one."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.layers import Layer

SMALL = 10  # layers that stay in one section, whatever their share of the network


@dataclass(frozen=True)
class Section:
    """Layers whose names begin with `prefix`, in order; a lone layer is its own section."""

    prefix: str
    layers: tuple[Layer, ...]

    def label(self, layer: Layer) -> str:
        """Return what is left to say of a layer's name under the section's."""
        return layer.name.removeprefix(f"{self.prefix}.")

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-accumulates before and after."""
        return sum(layer.macs_before for layer in self.layers), sum(layer.macs_after for layer in self.layers)


def sections(layers: Sequence[Layer]) -> tuple[Section, ...]:
    """Group layers by top-level module; one that holds most of the network by what is inside it.

    Products of activations stand with the layer that ran before them, sections in order of their first layer.
    """
    return tuple(Section(prefix, tuple(inside)) for prefix, inside in _split(layers, 1, len(layers) // 2).items())


def _split(layers: Sequence[Layer], depth: int, most: int) -> dict[str, list[Layer]]:
    found: dict[str, list[Layer]] = {}
    prefix = ""
    for layer in layers:
        if layer.width_before or "." in layer.name or not prefix:
            prefix = ".".join(layer.name.split(".")[:depth])
        found.setdefault(prefix, []).append(layer)
    split: dict[str, list[Layer]] = {}
    for prefix, inside in found.items():
        deeper = _split(inside, depth + 1, most) if _large(inside, depth, most) else {}
        # as many sections as layers would be no grouping at all
        split |= deeper if 0 < 2 * len(deeper) <= len(inside) else {prefix: inside}
    return split


def _large(layers: Sequence[Layer], depth: int, most: int) -> bool:
    return len(layers) > max(SMALL, most) and any(layer.name.count(".") > depth for layer in layers)
