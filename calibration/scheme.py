"""What the placement of pairs needs to know of a runtime."""

from typing import Protocol


class Scheme(Protocol):
    """The int8 dialect of a runtime. Read-only data; see `targets.base.Int8Scheme`, which fits it."""

    @property
    def activation(self) -> str:
        """Integer type of activations, "uint8" or "int8"."""

    @property
    def symmetric(self) -> bool:
        """Whether the zero point of activations is fixed (0 for int8, 128 for uint8)."""

    @property
    def centred(self) -> float:
        """How much longer a range may become by a zero point in the middle for it to be put there; 1: not at all."""

    @property
    def per_channel(self) -> bool:
        """Whether weights have a scale per output channel. They are always symmetric int8."""

    @property
    def reduced_range(self) -> bool:
        """Whether weights keep to -64…64, so that a pair of products with u8 fits int16."""

    @property
    def weighted(self) -> tuple[str, ...]:
        """Ops with a pair on the data input and int8 weights."""

    @property
    def joined(self) -> tuple[str, ...]:
        """Ops with a pair on every input.

        Except an Add, unless `quantize_outputs`: of its inputs, the one that a weighted op computes last has
        none, so that its kernel adds the other on the accumulator.
        """

    @property
    def quantize_outputs(self) -> bool:
        """Whether quantized ops have a pair behind them too, after the activation fused into them."""

    @property
    def quantize_bias(self) -> bool:
        """Whether biases are int32 in steps of data scale × weight scale."""

    @property
    def min_gemm(self) -> int:
        """Matrix products with fewer rows or columns in their weight than this stay in float."""
