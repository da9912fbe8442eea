"""How much to prune, and by what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.plugins import did_you_mean
from pipeline.pruning.curves import Sensitivity
from pipeline.pruning.depth import BLOCK, LAYER
from pipeline.pruning.groups import FILTER, HEAD, STAGE

CHANNELS = (FILTER, STAGE, HEAD)
DEPTH = (BLOCK, LAYER)
WEIGHT = "weight"
SENSITIVITY = "sensitivity"
CHOICES = {
    "scope": ("local", "isomorphic", "global", "energy", "pfa_kl", SENSITIVITY),
    "target": ("ratio", "macs", "params", "bytes"),
    "form": ("module", "graph"),
}


@dataclass(frozen=True)
class Settings:
    """How much to prune, and by what. Raises UserError for a value that cannot be.

    `ratio` is the share to remove of what `target` names: channels ("ratio"), multiply-accumulates, parameters
    or bytes; or a share of channels per layer, {"layer1.*": 0.3, "*": 0.5}, where the first pattern that fits
    a group's name counts and groups that none fits stay whole.

    `granularity` says what may go: "filter" (channels that one layer makes), "stage" (channels of a whole
    residual stage, one index set for all its layers), "head" (attention heads); and whole modules, those of
    least influence first: "block" (residual blocks), "layer" (modules whose output is shaped like their input).
    With both channels and modules, `ratio` of the modules and of the channels go; of a cost, modules take up to
    half of what is asked for and channels the rest. "weight" sets `ratio` of the single weights that are left to
    zero, by magnitude, or all but N of M with `pattern` "N:M": no shape changes.

    `scope` "local" takes the same share of every group; "global" ranks the units of all groups by score
    relative to their group's mean; "isomorphic" does so among groups of equal structure only. "energy" keeps as
    many units as directions that hold one share of the energy of every group's responses, "pfa_kl" as many as
    those directions are evenly loaded, whatever the ratio: both for criterion "pfa". "sensitivity" takes from
    each group what costs at most one drop in accuracy, by the curves in `sensitivity`: an analysis or its file.

    Kept widths are the nearest multiples of `round_to`, not below `min_width`; a group never loses its last
    unit. `criterion_options` are fields of the criterion. `reconstruct` fits the weights that read pruned channels
    to the samples anew, by least squares; some criteria do so by themselves. `ignore` names layers whose output
    channels stay, wildcards allowed. `form` "module" prunes the model's own modules; "graph" the captured graph,
    whose written-in sizes can be changed.
    """

    ratio: float | Mapping[str, float] = 0.5
    criterion: str = "l1"
    criterion_options: Mapping[str, Any] = field(default_factory=dict)
    granularity: tuple[str, ...] = CHANNELS
    scope: str = "local"
    target: str = "ratio"
    round_to: int = 1
    min_width: int = 1
    ignore: tuple[str, ...] = field(default=())
    form: str = "module"
    pattern: str | None = None
    sensitivity: Sensitivity | Path | str | None = None
    reconstruct: bool = False

    def __post_init__(self) -> None:
        for name in ("granularity", "ignore"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        ratios = self.ratio.values() if isinstance(self.ratio, Mapping) else [self.ratio]
        for ratio in ratios:
            if not 0 <= ratio < 1:
                raise UserError(f"ratio: the share to remove must be at least 0 and below 1, got {ratio}")
        if isinstance(self.ratio, Mapping) and (self.target != "ratio" or self.scope != "local"):
            raise UserError("ratio: shares per layer need target 'ratio' and scope 'local'; give one number otherwise")
        for key, known in CHOICES.items():
            _check(key, getattr(self, key), known)
        self._check_weights()
        self._check_curves()
        for value in self.granularity:
            _check("granularity", value, (*CHANNELS, *DEPTH, WEIGHT))
        for key in ("round_to", "min_width"):
            if (number := getattr(self, key)) < 1:
                raise UserError(f"{key}: must be at least 1, got {number}")

    def _check_weights(self) -> None:
        if self.pattern is not None and WEIGHT not in self.granularity:
            raise UserError(f"pattern: {self.pattern} is of single weights; add 'weight' to granularity")
        if self.form == "graph" and WEIGHT in self.granularity:
            raise UserError("granularity: single weights are those of modules; leave out 'weight' or set form 'module'")

    def _check_curves(self) -> None:
        if (self.scope == SENSITIVITY) != (self.sensitivity is not None):
            raise UserError(
                "scope: 'sensitivity' goes by curves, and only it does; measure them with `edgesmith sensitivity` and "
                "give the file as sensitivity="
            )
        if isinstance(self.sensitivity, str | Path):
            object.__setattr__(self, "sensitivity", Sensitivity.load(Path(self.sensitivity)))

    @property
    def curves(self) -> Sensitivity | None:
        """The curves of `sensitivity`."""
        return self.sensitivity if isinstance(self.sensitivity, Sensitivity) else None

    @property
    def depth(self) -> tuple[str, ...]:
        """The kinds of whole modules that may go."""
        return tuple(kind for kind in self.granularity if kind in DEPTH)

    @property
    def depth_share(self) -> float:
        """The share of the target that whole modules are to take."""
        if isinstance(self.ratio, Mapping):
            raise UserError("ratio: shares per layer are of channels; give one number to remove blocks or layers")
        mixed = bool(set(self.granularity) & set(CHANNELS)) and self.target != "ratio"
        return self.ratio / 2 if mixed else self.ratio

    @property
    def weight_share(self) -> float:
        """The share of single weights to set to zero."""
        if isinstance(self.ratio, Mapping):
            raise UserError("ratio: shares per layer are of channels; give one number to zero weights")
        return self.ratio

    def ignores(self, name: str) -> bool:
        """Whether `ignore` names a module, one that it is in, or one in it."""
        parts = name.split(".")
        paths = [".".join(parts[: i + 1]) for i in range(len(parts))]
        return any(fnmatchcase(p, pattern) for p in paths for pattern in self.ignore) or any(
            pattern.startswith(f"{name}.") for pattern in self.ignore
        )

    def ratio_of(self, name: str) -> float:
        """Return the share that a group is to lose."""
        if not isinstance(self.ratio, Mapping):
            return self.ratio
        return next((r for pattern, r in self.ratio.items() if fnmatchcase(name, pattern)), 0.0)


def _check(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{key}: no {key} named {value!r}{did_you_mean(str(value), known)}")
