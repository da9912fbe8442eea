"""devices.yaml: boards by name, and pools of them."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from pipeline import options
from pipeline.errors import UserError
from pipeline.options import Where
from pipeline.plugins import did_you_mean

FILE = "devices.yaml"
VARIABLE = "EDGESMITH_DEVICES"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
TAKEN = ("local", "none", "pool", "ssh")  # what DEVICE means by itself

Text = Annotated[str, StringConstraints(min_length=1)]


@dataclass(frozen=True)
class Named:
    """A device as it is written: its URL, and options on top of those in it."""

    url: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Configured:
    """All names that can be used."""

    devices: Mapping[str, Named] = field(default_factory=dict)
    pools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    devices: dict[str, Text | dict[str, Text]] = Field(default_factory=dict)
    pools: dict[str, Annotated[list[Text], Field(min_length=1)]] = Field(default_factory=dict)


def configured(beside: Path = Path()) -> Configured:
    """Read every devices.yaml there is: the user's, then the one in `beside`, whose names come first.

    With EDGESMITH_DEVICES set, that file alone. Raises UserError.
    """
    found = Configured()
    for path in files(beside):
        read = _read(path)
        found = Configured({**found.devices, **read.devices}, {**found.pools, **read.pools})
        for name, members in read.pools.items():
            for member in members:
                if member not in found.devices:
                    hint = did_you_mean(member, found.devices)
                    raise UserError(f"{path}: pools.{name}: there is no device {member!r}{hint}")
    return found


def files(beside: Path) -> list[Path]:
    """The files that there are, the weakest first. Raises UserError where EDGESMITH_DEVICES names none."""
    if named := os.environ.get(VARIABLE):
        if not Path(named).is_file():
            raise UserError(f"{VARIABLE}={named}: there is no such file")
        return [Path(named)]
    return [path for path in (user_file(), beside / FILE) if path.is_file()]


def user_file() -> Path:
    """The user's own: `$XDG_CONFIG_HOME/edgesmith/devices.yaml`, by default below ~/.config."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".config") / "edgesmith" / FILE


def _read(path: Path) -> Configured:
    try:
        given: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: no valid YAML: {getattr(error, 'problem', error)}") from error
    read = options.validate(_File, given, Where(str(path)))
    for section, names in (("devices", read.devices), ("pools", read.pools)):
        for name in names:
            _check(name, f"{path}: {section}")
    twice = sorted(set(read.devices) & set(read.pools))
    if twice:
        raise UserError(f"{path}: {twice[0]!r} names a device and a pool")
    devices = {name: _named(value, f"{path}: devices.{name}") for name, value in read.devices.items()}
    return Configured(devices, {name: tuple(members) for name, members in read.pools.items()})


def _named(value: str | dict[str, str], where: str) -> Named:
    if isinstance(value, str):
        return Named(value)
    if "url" not in value:
        raise UserError(f"{where}: the key 'url' is missing, e.g. url: ssh://user@host")
    return Named(value["url"], {key: text for key, text in value.items() if key != "url"})


def _check(name: str, where: str) -> None:
    if name in TAKEN:
        raise UserError(f"{where}: the name {name!r} is taken")
    if not NAME.fullmatch(name):
        raise UserError(f"{where}: {name!r:.80}: a name has letters, digits, dots, dashes and underscores")
