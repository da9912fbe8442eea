from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline import fingerprint


@dataclass(frozen=True)
class Options:
    ratio: float
    where: str = field(default="", metadata={"cache": False})


def test_fields_marked_so_do_not_count() -> None:
    assert fingerprint.of_value(Options(0.5, "here")) == fingerprint.of_value(Options(0.5, "there"))
    assert fingerprint.of_value(Options(0.5)) != fingerprint.of_value(Options(0.25))


def test_the_type_counts() -> None:
    assert fingerprint.of_value(Options(0.5)) != fingerprint.of_value({"ratio": 0.5})


def test_order_of_keys_does_not_count() -> None:
    assert fingerprint.of_value({"a": 1, "b": 2}) == fingerprint.of_value({"b": 2, "a": 1})


@pytest.mark.parametrize("value", [object(), {"f": print}, float("nan")])
def test_what_has_no_stable_form_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        fingerprint.of_value(value)


def test_a_folder_is_its_names_and_contents(tmp_path: Path) -> None:
    def digest(**files: str) -> str:
        folder = tmp_path / fingerprint.of_value(files)
        for name, text in files.items():
            path = folder / name.replace("_", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return fingerprint.of_folder(folder)

    assert digest(a="1", sub_b="2") != digest(a="1", b="2")
    assert digest(a="1") != digest(a="2")


def test_code_behind_follows_imports_also_inside_functions() -> None:
    behind = fingerprint.code_behind(["pipeline.stages.prune"])
    assert "pipeline.core" in behind
    assert "pipeline.pruning.engine" in behind  # imported where it is used
    assert "pipeline.cli" not in behind
    assert not any(name.startswith(("torch", "numpy")) for name in behind)


def test_code_behind_follows_relative_imports_and_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "acme_plugin"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "__init__.py").write_text("from ..other import thing")
    (package / "other.py").write_text("thing = 1")
    (package / "start.py").write_text("from . import inner")
    monkeypatch.syspath_prepend(tmp_path)
    before = fingerprint.code_behind(["acme_plugin.start"])
    assert set(before) == {"acme_plugin", "acme_plugin.start", "acme_plugin.inner", "acme_plugin.other"}
    (package / "other.py").write_text("thing = 2")
    after = fingerprint.code_behind(["acme_plugin.start"])
    assert {name for name in before if before[name] != after[name]} == {"acme_plugin.other"}


def test_code_of_a_file_counts_the_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import torch\nfrom blocks import Block")
    (tmp_path / "blocks.py").write_text("class Block: ...")
    (tmp_path / "unrelated.py").write_text("")
    assert set(fingerprint.code_of_file(tmp_path / "model.py")) == {"model", "blocks"}


def test_code_of_a_file_follows_packages_beside_it(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("from helpers import Block")
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "__init__.py").write_text("from .layers import Block")
    (tmp_path / "helpers" / "layers.py").write_text("class Block: ...")
    assert set(fingerprint.code_of_file(tmp_path / "model.py")) == {"model", "helpers", "helpers.layers"}


def test_nothing_is_imported_to_find_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "acme_loud"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model.py").write_text("import acme_loud.parts")
    (package / "parts.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert set(fingerprint.code_behind(["acme_loud.model"])) == {"acme_loud", "acme_loud.model", "acme_loud.parts"}
