"""Widths and ranks go to multiples of a number: the recipe's, or what the target's kernels like."""


class Rounds:
    """A stage with a multiple to round to. It derives from this before `Stage`, and has these fields itself."""

    round_to: int | None
    align: int  # the target's

    def __post_init__(self) -> None:
        """Settle the multiple; a recipe that gives one is cut alike for all targets, and shares the result."""
        object.__setattr__(self, "round_to", self.round_to or self.align)
        object.__setattr__(self, "align", 1)
