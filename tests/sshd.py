"""A real sshd on loopback, as a board: its own keys, port and folder; nothing of the machine's own is touched."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from getpass import getuser
from pathlib import Path
from urllib.parse import urlencode

import psutil

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
CONFIG = """
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
LogLevel VERBOSE
"""


@dataclass
class Sshd:
    """A running server. Its clients' connections are its child processes."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes]" = field(init=False)

    @property
    def python(self) -> str:
        """The interpreter of the tests: it has every runtime."""
        return sys.executable

    @property
    def kept(self) -> Path:
        """Where the board keeps its files."""
        return self.folder / "kept"

    def url(self, port: int | None = None, **options: str) -> str:
        """The device's URL; options replace those that reach this server and its own folder."""
        given = {
            "key": f"{self.folder}/client_key",
            "known_hosts": f"{self.folder}/known_hosts",
            "python": self.python,
            "folder": str(self.kept),
            **options,
        }
        return f"ssh://{getuser()}@localhost:{port or self.port}?{urlencode(given)}"

    def knows(self, name: str = "known_hosts", port: int | None = None, key: str = "host_key") -> Path:
        """Write a known_hosts file with a key for this server, or for what stands in front of it at `port`."""
        words = (self.folder / f"{key}.pub").read_text().split()[:2]
        path = self.folder / name
        path.write_text(f"[localhost]:{port or self.port} {' '.join(words)}\n")
        return path

    def start(self, *prefix: str) -> None:
        """Start it, through another program if one is given, and wait until it listens."""
        assert SSHD, "the tests need Debian's openssh-server: apt-get install --no-install-recommends openssh-server"
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's empty folder for what has no rights yet
        command = [*prefix, SSHD, "-D", "-e", "-f", f"{self.folder}/sshd_config", "-p", str(self.port)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline_s = time.monotonic() + 20
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline_s, self.log()
            time.sleep(0.02)

    def stop(self) -> None:
        """End it together with every session, as a board does that loses power."""
        if self.process.poll() is not None:
            return
        for process in (*self.sessions(), psutil.Process(self.process.pid)):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def sessions(self) -> list[psutil.Process]:
        """All processes of its connections: sshd's own, guards, agents and what those started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def agents(self) -> list[psutil.Process]:
        """Guards and agents, wherever they hang by now."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            words = process.info["cmdline"] or []
            ours = "-c" in words and any("from targets import guard" in word for word in words)
            if ours and process.info["status"] != psutil.STATUS_ZOMBIE and str(self.kept) in _place(process):
                found.append(process)
        return found

    def working(self, busy_s: float = 0.0) -> list[psutil.Process]:
        """Agents alone, without their guards, that have computed for so long."""
        found = self.agents()
        return [one for one in found if _parent(one) in {other.pid for other in found} and _used_s(one) >= busy_s]

    def drop_connections(self) -> None:
        """Kill sshd's processes of the connections, as if the wire was cut; agents are left to see it."""
        for process in self.sessions():
            if process.name() == "sshd":
                process.send_signal(signal.SIGKILL)

    def log(self) -> str:
        """What it said."""
        return (self.folder / "log").read_text()


def _place(process: psutil.Process) -> str:
    try:
        return process.cwd()  # agents and guards work in the folder that the board keeps
    except psutil.Error:
        return ""


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return 0


def _used_s(process: psutil.Process) -> float:
    try:
        return process.cpu_times().user
    except psutil.NoSuchProcess:
        return 0.0


@contextmanager
def running(folder: Path) -> Iterator[Sshd]:
    """A server with fresh keys in `folder`, on a free port."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("host_key", "client_key", "other_key"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        subprocess.run(make, check=True, stdin=subprocess.DEVNULL)
    shutil.copyfile(folder / "client_key.pub", folder / "authorized_keys")
    (folder / "sshd_config").write_text(CONFIG.format(folder=folder))
    server = Sshd(folder, free_port())
    server.knows()
    server.start()
    try:
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
