"""The one command that is ever run on a board, and the lines of JSON that go with it over standard input."""

from __future__ import annotations

import re

from targets.base import TargetError

# It runs the package only if its bytes are the ones asked for. All that varies comes over standard input. The user's
# login shell, whichever it is, sees a constant in single quotes: no quote, $, !, backslash or line end is in it.
PROGRAM = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; import hashlib, json, os; "
    'o = json.loads(os.fdopen(0, "rb", 0, closefd=False).readline()); '
    'z = os.path.join(o["root"], "agent", o["agent"] + ".pyz"); '
    'd = hashlib.sha256(open(z, "rb").read()).hexdigest(); '
    'd == o["agent"] or sys.exit("edgesmith: not what was copied: " + z); '
    "sys.path.insert(0, z); from targets import guard; guard.main(o)"
)
INTERPRETER = re.compile(r"(?:~/)?[A-Za-z0-9_./+][A-Za-z0-9_./+@:,=-]*")
TAMPERED = "edgesmith: not what was copied: "


def command(python: str) -> str:
    """The command line for an interpreter. Raises TargetError for a name that a shell could read otherwise."""
    if not INTERPRETER.fullmatch(python):
        raise TargetError(f"{python!r:.200} is no name of a Python interpreter")
    return f"{python} -u -c '{PROGRAM}'"
