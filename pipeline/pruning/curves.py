"""What every group costs in accuracy, at every ratio: the curves that a sensitivity analysis measured."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.pruning.groups import Group

SCHEMA = "edgesmith.sensitivity/1"


@dataclass(frozen=True)
class Curve:
    """The metric of the whole network when `gone[i]` of a group's units are, and nothing else."""

    group: str
    units: int
    gone: tuple[int, ...]  # ascending
    values: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """The shares of the group's units that are gone."""
        return tuple(n / self.units for n in self.gone)


@dataclass(frozen=True)
class Sensitivity:
    """A metric, higher = better, of a network that lost some units of one group at a time.

    `key` names all that the curves follow from: weights, samples, criterion and ratios.
    """

    metric: str
    criterion: str
    samples: int
    baseline: float
    curves: tuple[Curve, ...]
    key: str = ""

    @cached_property
    def digest(self) -> str:
        """Sha256 of all of it."""
        return hashlib.sha256(self._text().encode()).hexdigest()

    @cached_property
    def _by_group(self) -> Mapping[str, Curve]:
        return {curve.group: curve for curve in self.curves}

    def prices(self, group: Group) -> NDArray[np.float64]:
        """Return the least threshold on the drop at which 1, 2, … units of a group go, (units,).

        Between ratios that were measured the drop is interpolated; what is beyond them, and groups without a
        curve, never go. A curve may recover: a threshold takes the largest ratio that stays below it.
        """
        curve = self._by_group.get(group.name)
        if curve is None:
            return np.full(group.units, np.inf)
        if curve.units != group.units:
            raise UserError(
                f"sensitivity: {group.name} has {group.units} units, and {curve.units} in the curves; "
                "they are of another network, measure them on this one"
            )
        drops = self.baseline - np.array((self.baseline, *curve.values))
        lost = np.interp(np.arange(1, group.units + 1), (0, *curve.gone), drops, right=np.inf)
        return np.minimum.accumulate(lost[::-1])[::-1]

    def save(self, path: Path) -> None:
        """Write the curves as JSON; the file is there whole or not at all."""
        written = path.with_name(f"{path.name}.part")
        written.write_text(self._text(), encoding="utf-8")
        written.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Sensitivity":
        """Read what `save` wrote. Raises UserError for anything else."""
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if told.pop("schema") != SCHEMA:
                raise ValueError("schema")
            curves = (Curve(c["group"], c["units"], tuple(c["gone"]), tuple(c["values"])) for c in told.pop("curves"))
            return cls(curves=tuple(curves), **told)
        except FileNotFoundError:
            raise UserError(f"sensitivity: there is no file {path}; `edgesmith sensitivity` writes it") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no {SCHEMA}; make it again with `edgesmith sensitivity`") from error

    def _text(self) -> str:
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1)
