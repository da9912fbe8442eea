"""From a plug-in's dataclass fields to validated options, with errors that name the key and the fix."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from pipeline.errors import UserError
from pipeline.plugins import did_you_mean

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Where:
    """A place in what the user wrote: a file (or "--set") and a key path."""

    file: str
    keys: tuple[str, ...] = ()

    def __truediv__(self, key: str) -> "Where":
        return Where(self.file, (*self.keys, key))

    def __str__(self) -> str:
        return f"{self.file}: {'.'.join(self.keys)}" if self.keys else self.file


def model_of(cls: type, leave_out: frozenset[str] = frozenset(), **extra: Any) -> type[BaseModel]:
    """A pydantic model of a dataclass's init fields, less those that the pipeline fills in itself."""
    hints = get_type_hints(cls, include_extras=True)
    shown = {f.name: (hints[f.name], _default(f)) for f in fields(cls) if f.init and f.name not in leave_out}
    config = ConfigDict(extra="forbid", strict=True, title=cls.__name__)
    doc = (cls.__doc__ or "").strip()
    return create_model(cls.__name__, __config__=config, __doc__=doc, **{**shown, **extra})


def validate(model: type[M], given: Any, where: Where) -> M:
    """Validate what YAML gave. Raises UserError with one line for the first thing that is wrong."""
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: wants keys and values, got {given!r}")
    try:
        # as JSON, because strict mode then still takes a list for a tuple and a whole number for a float
        return model.model_validate_json(json.dumps(given, default=str))
    except ValidationError as error:
        raise UserError(_line(error.errors()[0], model, where)) from error


def values(validated: BaseModel) -> dict[str, Any]:
    """The validated values by name, nested models left as they are."""
    return {name: getattr(validated, name) for name in type(validated).model_fields}


def _line(error: Any, model: type[BaseModel], where: Where) -> str:
    path = [str(part) for part in error["loc"]]
    for part in path[:-1]:
        where = where / part
    last = path[-1] if path else ""
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where}: unknown key {last!r}{did_you_mean(last, _known(model, path[:-1]))}"
    if error["type"] == "missing":
        return f"{where}: the key {last!r} is missing"
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{where / last if last else where}: {message}, got {error['input']!r}"


def _known(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        inner = field.annotation if field else None
        options = next((kind for kind in (inner, *get_args(inner)) if is_dataclass(kind)), None)
        if isinstance(options, type):
            return [f.name for f in fields(options)]
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else ...
