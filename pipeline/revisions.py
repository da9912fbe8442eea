"""A git revision of a recipe, deployed as it was then: its own recipe, its own code, the store of today."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import manifest
from pipeline.errors import UserError

WRITTEN = re.compile(r"(?P<rev>[^:]+):(?P<path>.+\.ya?ml)")
DEPLOY = "from pipeline.cli import main; main()"  # run in the revision's folder, whose own packages come first


@dataclass(frozen=True)
class Revision:
    """A recipe as some commit has it."""

    commit: str  # whole hash
    top: Path  # of the repository
    recipe: Path  # below `top`


def written(text: str) -> bool:
    """Whether `text` reads REV:RECIPE, and is no file of that name."""
    return WRITTEN.fullmatch(text) is not None and not Path(text).exists()


def revision(text: str, here: Path) -> Revision:
    """Read REV:RECIPE, the path seen from `here`. Raises UserError for what the repository there does not have."""
    said = WRITTEN.fullmatch(text)
    if said is None:
        raise UserError(f"{text}: write REVISION:RECIPE, e.g. HEAD~1:recipes/fashion_resnet20.yaml")
    top = Path(_git(here, "rev-parse", "--show-toplevel", says=f"{text}: {here} is in no git repository"))
    name = said["rev"]
    commit = _git(
        here, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}",
        says=f"{text}: the repository at {top} has no revision {name!r}; git log --oneline lists them",
    )  # fmt: skip
    try:
        recipe = (here / said["path"]).resolve().relative_to(top.resolve())
    except ValueError:
        raise UserError(f"{text}: {said['path']} lies outside the repository at {top}") from None
    _git(top, "cat-file", "-e", f"{commit}:{recipe.as_posix()}", says=f"{text}: {name} has no file {recipe}")
    return Revision(commit, top, recipe)


@contextmanager
def checked_out(found: Revision) -> Iterator[Path]:
    """The revision's files in a folder of their own, which goes away again; the user's own are left alone."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / found.commit[:12]
        what = f"{found.commit[:12]} cannot be checked out"
        _git(found.top, "worktree", "add", "--detach", "--quiet", str(tree), found.commit, says=what)
        try:
            yield tree
        finally:
            _git(found.top, "worktree", "remove", "--force", str(tree), says=f"{tree} cannot be removed")


def deployed(tree: Path, recipe: Path, options: tuple[str, ...], out: Path) -> Path:
    """Deploy a recipe in `tree` with that folder's own code; return the folder it wrote. Raises UserError."""
    command = [sys.executable, "-c", DEPLOY, "deploy", str(recipe), *options, "--out", str(out)]
    done = subprocess.run(command, cwd=tree, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        why = next(
            (line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "no reason"
        )
        raise UserError(f"{recipe} cannot be deployed at that revision: {why.removeprefix('error: ')}")
    return next(out.glob(f"*/*/{manifest.FILE}")).parent


def _git(folder: Path, *arguments: str, says: str) -> str:
    """What git prints. Raises UserError with `says` where it fails."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError("comparing revisions takes git, which is not installed") from None
    if done.returncode:
        raise UserError(says)
    return done.stdout.strip()
