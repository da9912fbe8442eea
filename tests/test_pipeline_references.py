from pathlib import Path

import pytest
import torch

from pipeline import checkpoint, references
from pipeline.errors import UserError
from pipeline.references import ModelSpec


def model_spec(folder: Path, ref: str = "my_model.py:build", **args: object) -> ModelSpec:
    return ModelSpec(references.factory(ref, args, folder))


def test_a_file_beside_the_recipe_is_imported(project: Path) -> None:
    model = model_spec(project.parent, width=8).build()
    assert model[0].out_channels == 8


def test_code_enters_the_hash_and_the_place_does_not(project: Path, tmp_path: Path) -> None:
    first = model_spec(project.parent).factory
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "my_model.py").write_bytes((project.parent / "my_model.py").read_bytes())
    assert model_spec(elsewhere).factory.code == first.code
    (elsewhere / "my_model.py").write_text("build = 1")
    assert model_spec(elsewhere).factory.code != first.code


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("my_model.py", "no import path"),
        ("my_model:", "no import path"),
        ("nowhere.py:build", "there is no file"),
        ("my_model.py:bild", "has no 'bild'"),
        ("no_such_package.module:build", "there is no module no_such_package"),
        ("os:getcwd", "not a torch.nn.Module"),
    ],
)
def test_bad_references(project: Path, ref: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        model_spec(project.parent, ref).build()


def test_wrong_arguments(project: Path) -> None:
    with pytest.raises(UserError, match=r"does not take these args: .*widht"):
        model_spec(project.parent, widht=8).build()


def test_an_error_inside_the_users_code_is_not_hidden(project: Path) -> None:
    (project.parent / "broken.py").write_text("def build():\n    return len(5)\n")
    with pytest.raises(TypeError, match="has no len"):
        model_spec(project.parent, "broken.py:build").build()


def data(folder: Path, body: str) -> references.DataSpec:
    head = "import numpy as np\nfrom pipeline.data.base import ArraySplit, Data\n"
    (folder / "my_data.py").write_text(head + body)
    return references.data_spec(references.factory("my_data.py:load", {}, folder))


GOOD = """
def part(n, seed):
    rng = np.random.default_rng(seed)
    return ArraySplit(rng.normal(size=(n, 1, 4, 4)).astype(np.float32), np.arange(n) % 3)
def load():
    return Data(part(9, 0), part(9, 1), part(9, 2), part(9, 3), ("a", "b", "c"))
"""


def test_data_versions_follow_the_content(tmp_path: Path) -> None:
    versions = []
    for i, body in enumerate((GOOD, GOOD + "\n# a comment", GOOD.replace("part(9, 3)", "part(9, 4)"))):
        (tmp_path / str(i)).mkdir()
        versions.append(data(tmp_path / str(i), body).version)
    assert versions[0] == versions[1] != versions[2]


def test_the_same_relative_path_in_two_projects_is_two_data_sets(tmp_path: Path) -> None:
    loaded = []
    for name, body in (("a", GOOD), ("b", GOOD.replace("part(9, 0)", "part(6, 0)"))):
        (tmp_path / name).mkdir()
        loaded.append(len(data(tmp_path / name, body).load().train))
    assert loaded == [9, 6]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("part(9, 1)", "part(0, 1)", "the validation split is empty"),
        ("% 3", "% 4", "there are 3 classes"),
        (".astype(np.float32)", ".astype(np.float32) * np.nan", "NaN or infinity"),
        (
            'return Data(part(9, 0), part(9, 1), part(9, 2), part(9, 3), ("a", "b", "c"))',
            "return 5",
            "returned int",
        ),
    ],
)
def test_empty_or_mislabelled_data(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    with pytest.raises(UserError, match=expected):
        data(tmp_path, GOOD.replace(old, new))


def test_a_split_of_ones_own_needs_a_version(tmp_path: Path) -> None:
    body = (
        GOOD
        + """
class Mine:
    def __init__(self, inner): self.inner = inner
    def __len__(self): return len(self.inner)
    def __getitem__(self, i): return self.inner[i]
def load():
    s = Mine(part(9, 0))
    return Data(s, s, s, s, ("a", "b", "c"))
"""
    )
    with pytest.raises(UserError, match="version="):
        data(tmp_path, body)


def saved(tmp_path: Path, name: str, value: object) -> Path:
    torch.save(value, tmp_path / name)
    return tmp_path / name


def test_weights_from_a_state_dict_with_and_without_a_wrapper(tmp_path: Path) -> None:
    source, target = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    for path in (
        saved(tmp_path, "a.pt", source.state_dict()),
        saved(tmp_path, "b.pt", {"state_dict": source.state_dict()}),
    ):
        torch.nn.init.zeros_(target.weight)
        checkpoint.load_weights(target, path)
        assert torch.equal(target.weight, source.weight)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 3)
    state = model.state_dict()
    nan = {**state, "bias": state["bias"] * float("nan")}
    for value, expected in (
        (torch.nn.Linear(2, 4).state_dict(), r"bias is \(4,\) there and \(3,\) in the model"),
        ({"weight": state["weight"]}, "it lacks bias"),
        ({**state, "extra": state["bias"]}, "the model has no extra"),
        (nan, "bias has NaN or infinite weights"),
        (model, "more than tensors"),
        (5, "holds no state dict"),
    ):
        with pytest.raises(UserError, match=expected):
            checkpoint.load_weights(model, saved(tmp_path, "w.pt", value))


def test_foreign_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path(tmp_path / "ran").write_text, ("",))

    path = saved(tmp_path, "evil.pt", {"weight": Evil()})
    with pytest.raises(UserError, match="not loaded for safety"):
        checkpoint.load_weights(torch.nn.Linear(2, 3), path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["broken.safetensors", "broken.pt"])
def test_damaged_weights(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(UserError):
        checkpoint.load_weights(torch.nn.Linear(2, 3), tmp_path / name)


def test_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        references.weights_file("w.safetensors", tmp_path)
