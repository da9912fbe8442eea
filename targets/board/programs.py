"""Running the few programs that set a board's power: fixed paths, argument lists, no shell."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from targets.base import TargetError

SUDO = Path("/usr/bin/sudo")
NVPMODEL = "usr/sbin/nvpmodel"  # JetPack's paths
JETSON_CLOCKS = "usr/bin/jetson_clocks"
LIMIT_S = 60.0


def has(root: Path, program: str) -> bool:
    """Whether the board has it."""
    return (root / program).is_file()


def run(root: Path, program: str, *arguments: str, privileged: bool = True) -> str:
    """Run a program of the board and return what it printed.

    Without root's rights, through `sudo -n`, which never asks. Raises TargetError in one line.
    """
    command = [str(root / program), *arguments]
    if privileged and os.geteuid() != 0:
        command = [str(SUDO), "-n", "--", *command]
    return _run(command, None)


def write(path: Path, text: str) -> None:
    """Write one of the kernel's files, through `sudo -n tee` where only root may."""
    try:
        path.write_text(text)
    except PermissionError:
        _run([str(SUDO), "-n", "--", "/usr/bin/tee", str(path)], text)
    except OSError as error:
        raise TargetError(f"{path}: the kernel does not take {text!r}: {error.strerror}") from error


def _run(command: list[str], text: str | None) -> str:  # annotations are never evaluated here: 3.8 takes them
    shown = " ".join(command)
    try:
        # nvpmodel may ask whether to reboot: with no input it hears no
        given = text if text is not None else ""
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise TargetError(f"{shown}: not done within {LIMIT_S:g} s") from None
    except OSError as error:
        raise TargetError(f"{shown}: {error.strerror}; run as root there, or install sudo") from error
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[-300:] or "no reason given"
        fix = f"; allow it in /etc/sudoers.d: USER ALL=(root) NOPASSWD: {command[3]}" if command[0] == str(SUDO) else ""
        raise TargetError(f"{shown}: exit code {done.returncode}: {said}{fix}")
    return done.stdout
