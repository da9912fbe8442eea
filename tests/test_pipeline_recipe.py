import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from conftest import RECIPE, ROOT

from pipeline import recipe as recipes
from pipeline.errors import UserError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_options_reach_the_stages(project: Path) -> None:
    loaded = recipes.load(project)
    assert list(loaded.sections.stages) == ["source", "prune", "finetune", "calibrate", "export", "compile"]
    assert loaded.options("prune")["ratio"] == 0.5
    assert loaded.policy("calibrate") == "reject"
    assert loaded.policy("prune") == "warn"


def test_set_overrides_and_creates_keys(project: Path) -> None:
    loaded = recipes.load(project, ["stages.prune.ratio=0.25", "targets.cpu.threads=2", "stages.export.batch=4"])
    assert loaded.options("prune")["ratio"] == 0.25
    assert loaded.target("cpu").threads == 2
    assert loaded.options("export")["batch"] == 4


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "ratio: 0.5",
            "ration: 0.5",
            "recipe.yaml: stages.prune: unknown key 'ration'; did you mean 'ratio'?",
        ),
        ("ratio: 0.5", "ratio: much", "recipe.yaml: stages.prune.ratio: input should be a valid number"),
        ("ratio: 0.5", "ratio: 1.5", "recipe.yaml: stages.prune.ratio: input should be less than 1, got 1.5"),
        ("ratio: 0.5", "criterion: l11", "stages.prune.criterion: there is no 'l11'; did you mean 'l1'?"),
        ("samples: 16", "observer: minmx", "stages.calibrate.observer: there is no 'minmx'; did you mean"),
        ("ratio: 0.5", "ratio: .nan", "recipe.yaml: stages.prune.ratio"),
        ("epochs: 2", "epochs: -2", "recipe.yaml: stages.finetune.epochs"),
        ("budget:", "buget:", "recipe.yaml: unknown key 'buget'; did you mean 'budget'?"),
        ("max_drop: 100", "max_drop: -1", "recipe.yaml: budget.max_drop"),
        ("model: {factory:", "model: {fctory:", "recipe.yaml: model"),
        ("  prune:", "  prun:", "no stage named 'prun': did you mean prune?"),
        ("{cpu: {}, mobile: {}}", "{cqu: {}}", "no target named 'cqu': did you mean cpu?"),
        ("cpu: {}", "cpu: {treads: 1}", "targets.cpu: unknown key 'treads'; did you mean 'threads'?"),
        ("cpu: {}", "cpu: {precision: f8}", "recipe.yaml: targets.cpu"),
        ("cpu: {}", "cpu: {threads: 0}", "recipe.yaml: targets.cpu"),
        ("  source:", "  source: {x: 1}", "stages.source: unknown key 'x'"),
        ("  source:\n", "", "the first stage must be source"),
        ("  export:\n  compile:", "  compile:\n  export:", "export and then compile come last"),
        ("  export:\n", "  export:\n  source:\n", "the key 'source' is given twice"),
        ("prune: {ratio", "prune: [ratio", "no valid YAML"),
        ("  compile:", "  compile: 7", "wants keys and values, got 7"),
        (
            "budget: {max_drop: 100}",
            "budget: {max_drop: 100}\ntask: clasification",
            "did you mean classification?",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in RECIPE
    with pytest.raises(UserError) as caught:
        recipes.load(written(tmp_path, RECIPE.replace(old, new, 1)))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "just words"])
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="a recipe is a mapping"):
        recipes.load(written(tmp_path, text))


def test_a_missing_file_names_the_nearest(project: Path) -> None:
    with pytest.raises(UserError, match=r"there is no recipe .*recpe.yaml; did you mean 'recipe.yaml'"):
        recipes.load(project.with_name("recpe.yaml"))


@pytest.mark.parametrize("text", ["stages.prune.ratio", "=3", "model.factory.x=1", "a=[", "stages.prune.ratio=2"])
def test_bad_overrides(project: Path, text: str) -> None:
    with pytest.raises(UserError):
        recipes.load(project, [text])


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_recipes_are_valid_and_fit_the_schema(path: Path) -> None:
    written = yaml.safe_load(path.read_text())
    assert list(recipes.load(path).sections.stages) == list(written["stages"])
    errors = jsonschema.Draft202012Validator(recipes.json_schema()).iter_errors(written)
    assert [error.message for error in errors] == []


def test_the_schema_refuses_what_the_loader_refuses() -> None:
    schema = recipes.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    good = yaml.safe_load(RECIPE)
    jsonschema.validate(good, schema)
    for broken in ({"stages": {"prun": {}}}, {"stages": {"prune": {"ration": 1}}}, {"targets": {"x": {}}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, **broken}, schema)


def test_every_option_is_described() -> None:
    stages = recipes.json_schema()["properties"]["stages"]["properties"]
    options = {
        f"{stage}.{name}": option
        for stage, schema in stages.items()
        for name, option in schema["anyOf"][0].get("properties", {}).items()
    }
    inner = {
        f"{key}.{name}": option
        for key, outer in options.items()
        for part in outer.get("anyOf", ())
        for name, option in part.get("properties", {}).items()
    }
    assert "finetune.distill.temperature" in inner
    bare = [key for key, option in {**options, **inner}.items() if "description" not in option]
    assert not bare, json.dumps(bare)


def test_the_schema_knows_options_within_options() -> None:
    schema = recipes.json_schema()
    good = yaml.safe_load(RECIPE)
    for distill, fits in (({"response": 1, "taps": ["a"]}, True), (None, True), ({"tap": 1}, False), (3, False)):
        written = {**good, "stages": {**good["stages"], "finetune": {"distill": distill}}}
        assert jsonschema.Draft202012Validator(schema).is_valid(written) is fits
