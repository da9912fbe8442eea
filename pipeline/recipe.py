"""A recipe: one YAML file that says what to ship, how, and within which budget."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from pipeline import options, plugins
from pipeline.board_section import BoardSection
from pipeline.core import PREVIOUS, Policy, Stage
from pipeline.errors import UserError
from pipeline.fingerprint import of_file
from pipeline.gate.tolerances import Gate
from pipeline.options import Where
from pipeline.references import DataSpec, ModelSpec, data_spec, factory, weights_file
from pipeline.tasks.base import Task
from targets.base import Target, TargetError
from targets.board.options import Board
from targets.devices.base import Timing

# what stages take from the recipe's other sections, by field name
SHARED = frozenset(
    {"model", "data", "scheme", "target", "device", "fingerprint", "runtime", "align"}
    | {"task", "timing", "allowed_drop", "why_not", "meter"}
)
LAST = ("place", "export", "compile")  # what comes behind all that changes the network, in this order


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ModelSection(_Section):
    """The model: a callable that returns a `torch.nn.Module`."""

    factory: Annotated[str, Field(description="package.module:name, or my_model.py:name beside the recipe")]
    args: dict[str, Any] = {}
    weights: Annotated[
        str | None, Field(description="safetensors or state dict: a path beside the recipe, or package:file")
    ] = None


class DataSection(_Section):
    """The data: a callable that returns a `pipeline.data.base.Data`."""

    factory: Annotated[str, Field(description="package.module:name, or my_data.py:name beside the recipe")]
    args: Annotated[dict[str, Any], Field(description='"./…" in a value is a path beside the recipe')] = {}


class Budget(_Section):
    """What compression may cost."""

    max_drop: Annotated[
        float,
        Field(ge=0, allow_inf_nan=False, description="points of accuracy below the source, on the validation split"),
    ] = 1.0


class TimingSection(_Section):
    """How latency is measured: interleaved with the source and with what the stage would replace."""

    samples: Annotated[int, Field(ge=50, description="timed calls per artifact")] = 2000
    rounds: Annotated[int, Field(ge=3, description="interleaved blocks they are spread over")] = 24
    launches: Annotated[
        int, Field(ge=1, description="sets of fresh processes for the rounds: a process's memory layout is chance")
    ] = 8
    max_s: Annotated[float, Field(gt=0, description="limit for one comparison")] = 60.0
    seed: Annotated[int, Field(ge=0)] = 0
    mode: Annotated[
        Literal["latency", "throughput"], Field(description="throughput: the target's streams call at once")
    ] = "latency"
    quantile: Annotated[float, Field(gt=0, lt=1, description="the one that precision is about: 0.5, 0.99 …")] = 0.5
    precision: Annotated[
        float,
        Field(ge=0, description="half that quantile's interval, as a share of it; launches are added for it; 0: none"),
    ] = 0.01
    retries: Annotated[int, Field(ge=0, description="disturbed launches that are timed again, in all")] = 2
    layers: Annotated[bool, Field(description="take the time of each layer too")] = True


class Sections(_Section):
    """The recipe as written."""

    model: ModelSection
    data: DataSection
    task: str = "classification"
    budget: Budget = Budget()
    timing: TimingSection = TimingSection()
    gate: Gate = Gate()
    board: BoardSection = BoardSection()
    stages: Annotated[dict[str, Any], Field(description="stage name to options, in the order they run")]
    targets: Annotated[dict[str, Any], Field(description="target name to options")] = {}


@dataclass(frozen=True)
class Recipe:
    """A validated recipe. Building its stages reads the model's source, its weights and the data."""

    name: str
    path: Path
    sections: Sections

    @property
    def timing(self) -> Timing:
        """How to time."""
        return Timing(**self.sections.timing.model_dump())

    @property
    def board(self) -> Board:
        """How to hold the device still."""
        return Board(**self.sections.board.model_dump())

    def target(self, name: str) -> Target:
        """The target of that name with the recipe's options. Raises UserError."""
        cls = plugins.find("targets.backends", name, Target)
        where = Where(str(self.path), ("targets", name))
        given = options.validate(options.model_of(cls), self.sections.targets.get(name), where)
        try:
            return cls(**options.values(given))
        except TargetError as error:
            raise UserError(f"{where}: {error}") from error

    def model_spec(self) -> ModelSpec:
        """The model's factory with the hash of its code, and its weights with theirs."""
        section, folder = self.sections.model, self.path.parent
        made = factory(section.factory, section.args, folder)
        if section.weights is None:
            return ModelSpec(made)
        weights = weights_file(section.weights, folder)
        return ModelSpec(made, str(weights), of_file(weights))

    def data_spec(self) -> DataSpec:
        """The data's factory with the hash of what it gives."""
        section = self.sections.data
        return data_spec(factory(section.factory, section.args, self.path.parent))

    def policy(self, stage: str) -> Policy:
        """What happens to the stage's result if it is a regression."""
        found: Policy = self.options(stage).get("on_regression", "warn")
        return found

    def stages(self, shared: Mapping[str, Any]) -> list[Stage]:
        """The recipe's stages, with `shared` filled in where a stage has a field of that name."""
        return [self.stage(name, shared) for name in self.sections.stages]

    def stage(self, name: str, shared: Mapping[str, Any]) -> Stage:
        """One of the recipe's stages."""
        cls = stage_class(name)
        wanted = {f.name for f in fields(cls)} & SHARED
        given = self.options(name)
        given.pop("on_regression", None)
        return cls(**given, **{key: shared[key] for key in wanted if key in shared})

    def require(self, why_not: str | None) -> None:
        """Raise UserError for a stage that needs what is missing here; `why_not` says why nothing can run."""
        for name in self.sections.stages:
            lacking = stage_class(name).lacking(self.options(name), why_not)
            if lacking:
                raise UserError(f"{Where(str(self.path), ('stages', name))}: {lacking}")

    def options(self, stage: str) -> dict[str, Any]:
        """The options of a stage, its policy among them."""
        where = Where(str(self.path), ("stages", stage))
        return options.values(options.validate(stage_options(stage), self.sections.stages[stage], where))


def stage_class(name: str) -> type[Stage]:
    """The stage of that name. Raises UserError."""
    return plugins.find("pipeline.stages", name, Stage)


def stage_options(name: str) -> type[BaseModel]:
    """The options that a recipe can give to a stage."""
    cls = stage_class(name)
    if cls.on_regression is None:
        return options.model_of(cls, SHARED)
    policy = (
        Annotated[
            Policy,
            Field(
                description="reject: a result that is slower or too inaccurate does not ship; "
                "reject_slower: a slower one is replaced by what was before it"
            ),
        ],
        cls.on_regression,
    )
    return options.model_of(cls, SHARED, on_regression=policy)


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe; `overrides` are "dotted.key=value" with a YAML value. Raises UserError."""
    raw = _read(path)
    for text in overrides:
        _override(raw, text)
    sections = options.validate(Sections, raw, Where(str(path)))
    recipe = Recipe(path.stem, path, sections)
    _check(recipe)
    return recipe


def _check(recipe: Recipe) -> None:
    """Validate what the sections' types do not: names, options and order."""
    plugins.find("pipeline.tasks", recipe.sections.task, Task)
    for target in recipe.sections.targets:
        recipe.target(target)
    names = list(recipe.sections.stages)
    where = Where(str(recipe.path), ("stages",))
    for name in names:
        wrong = stage_class(name).wrong(recipe.options(name))
        if wrong:
            raise UserError(f"{where / name}: {wrong}")
    if not names or names[0] != "source":
        raise UserError(f"{where}: the first stage must be source, got {names[0] if names else 'none'}")
    for i, name in enumerate(names):
        lacking = [other for other in stage_class(name).after if other != PREVIOUS and other not in names[:i]]
        if lacking:
            raise UserError(f"{where / name}: goes on from {lacking[0]}; name that stage before it")
    late = [name for name in LAST if name in names]
    if names[len(names) - len(late) :] != late or ("compile" in late and "export" not in late):
        raise UserError(f"{where}: place, export and then compile come last, got {' → '.join(names)}")


def json_schema() -> dict[str, Any]:
    """JSON Schema of a recipe with every installed stage and target, for editors."""
    schema = Sections.model_json_schema()
    schema["title"] = "edgesmith recipe"
    backends = plugins.names("targets.backends")
    models = {
        "stages": {name: stage_options(name) for name in plugins.names("pipeline.stages")},
        "targets": {name: options.model_of(plugins.find("targets.backends", name, Target)) for name in backends},
    }
    for key, parts in models.items():
        shown = {n: {"anyOf": [_inlined(m.model_json_schema()), {"type": "null"}]} for n, m in parts.items()}
        schema["properties"][key] |= {"properties": shown, "additionalProperties": False}
    return schema


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Put what a schema defines where it refers to it, as the whole recipe's has another place for definitions."""
    defined = schema.pop("$defs", {})

    def put(part: Any) -> Any:
        if isinstance(part, list):
            return [put(item) for item in part]
        if not isinstance(part, dict):
            return part
        name = str(part.get("$ref", "")).removeprefix("#/$defs/")
        return put(defined[name]) if name in defined else {key: put(value) for key, value in part.items()}

    found: dict[str, Any] = put(schema)
    return found


class _Loader(yaml.SafeLoader):
    """Refuses a key given twice, which YAML would silently resolve to the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        near = [p.name for p in sorted(path.parent.glob("*.y*ml"))] if path.parent.is_dir() else []
        raise UserError(f"there is no recipe {path}{plugins.did_you_mean(path.name, near)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: no valid YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a recipe is a mapping with the keys model, data, stages; got {raw!r:.60}")
    return raw


def _override(raw: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set {text}: write --set section.key=value, e.g. --set stages.prune.ratio=0.3")
    *path, last = key.split(".")
    place = raw
    for part in path:
        if place.get(part) is None:
            place[part] = {}
        if not isinstance(place[part], dict):
            raise UserError(f"--set {text}: {part} is {place[part]!r}, which has no keys")
        place = place[part]
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is no valid YAML") from error


def scheme_of(target: Target) -> dict[str, Any]:
    """The target's int8 dialect as plain data."""
    return asdict(target.scheme)
