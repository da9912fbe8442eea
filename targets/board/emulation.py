"""Whether the processor is real: under qemu's user mode everything runs, and no time means anything.

qemu-user runs the machine's own kernel, which knows nothing of the other processor. What it hides it hides for
/proc/self and for the process's own number (linux-user/syscall.c: `is_proc_myself`), not for /proc/thread-self.
"""

from __future__ import annotations

import platform
import struct
from pathlib import Path
from typing import Optional

from targets.board.files import ROOT

# e_machine of the ELF files (the System V ABI's list) that run on what platform.machine() says
X86, ARM, PPC64, X86_64, AARCH64, RISCV = 3, 40, 21, 62, 183, 243
MACHINES = {
    "x86_64": (X86_64, X86),
    "i686": (X86_64, X86),
    "aarch64": (AARCH64, ARM),
    "armv8l": (AARCH64, ARM),
    "armv7l": (ARM,),
    "riscv64": (RISCV,),
    "ppc64le": (PPC64,),
}
ELF, E_MACHINE = b"\x7fELF", 18


def emulator(root: Path = ROOT) -> str:
    """ "qemu" where this process is run by a program for another processor; "" on a real one."""
    known = MACHINES.get(platform.machine())
    runs = elf_machine(root / "proc/thread-self/exe")
    return "qemu" if known is not None and runs is not None and runs not in known else ""


def elf_machine(path: Path) -> Optional[int]:
    """The processor that an ELF file is for; None for anything else, or where it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(E_MACHINE + 2)
    except OSError:
        return None
    if not head.startswith(ELF) or len(head) < E_MACHINE + 2:
        return None
    order = "<" if head[5] == 1 else ">"
    return int(struct.unpack_from(f"{order}H", head, E_MACHINE)[0])
