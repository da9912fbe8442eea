"""An arm64 Debian in a folder, run by qemu-user: made once by debootstrap, entered by a real sshd.

Needs root, and Debian's packages debootstrap, qemu-user-static, binfmt-support and openssh-server.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
PACKAGES = ("python3",)
WHEELS = ("onnxruntime", "onnx", "numpy")  # in the versions that are installed here
PYTHON = "3.11"  # bookworm's
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
SITE = "opt/edgesmith"
FOLDER = "/opt/edgesmith-agent"
BINFMT = Path("/proc/sys/fs/binfmt_misc")
CONFIG = """
ListenAddress 127.0.0.1
HostKey {keys}/host_key
AuthorizedKeysFile {keys}/client_key.pub
ChrootDirectory {root}
SetEnv PYTHONPATH=/{site} OMP_NUM_THREADS=1 HOME=/root
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""


def make(root: Path) -> None:
    """Make the root file system unless it is there; about 4 minutes on a quiet machine."""
    register()
    done = root / "opt/edgesmith.done"
    if done.exists():
        return
    if not (root / "usr/bin/python3").exists():
        include = f"--include={','.join(PACKAGES)}"
        run("debootstrap", "--arch=arm64", "--variant=minbase", include, SUITE, root, MIRROR)
    folder = root / "tmp/wheels"
    folder.mkdir(parents=True, exist_ok=True)
    from importlib.metadata import version

    pins = [f"{name}=={version(name)}" for name in WHEELS]
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    only = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
    run(sys.executable, "-m", "pip", "download", "-q", *only, *platforms, "-d", folder, *pins)
    (root / SITE).mkdir(parents=True, exist_ok=True)
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(root / SITE)
    done.touch()


def register() -> None:
    """Let the kernel run arm64 programs through qemu, whatever root they lie in."""
    if not any(BINFMT.iterdir()):
        run("mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT)
    if not (BINFMT / "qemu-aarch64").exists():
        run("update-binfmts", "--enable", "qemu-aarch64")


@contextmanager
def mounted(root: Path) -> Iterator[None]:
    """/proc in the root, for as long as the context is open.

    Not /sys: onnxruntime 1.31 for Arm reads its topology there, finds an x86's, and dies (SIGSEGV).
    """
    place, mount = root / "proc", not (root / "proc").is_mount()
    if mount:
        run("mount", "-t", "proc", "proc", place)
    try:
        yield
    finally:
        if mount:
            run("umount", place)


@contextmanager
def sshd(root: Path, keys: Path) -> Iterator[str]:
    """A server whose sessions are in the root; gives the URL of the device."""
    for name in ("host_key", "client_key"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (keys / "sshd_config").write_text(CONFIG.format(keys=keys, root=root, site=SITE))
    words = (keys / "host_key.pub").read_text().split()[:2]
    (keys / "known_hosts").write_text(f"[localhost]:{port} {' '.join(words)}\n")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") or "sshd"
    command = [program, "-D", "-e", "-f", keys / "sshd_config", "-p", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.05)
        options = {"key": keys / "client_key", "known_hosts": keys / "known_hosts", "python": "/usr/bin/python3"}
        yield f"ssh://root@localhost:{port}?{urlencode({**options, 'folder': FOLDER})}"
    finally:
        server.terminate()
        server.wait()


def run(*command: object) -> None:
    """Run a program; its output is shown."""
    subprocess.run([str(word) for word in command], check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
