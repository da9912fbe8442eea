"""The other end of the agent's line: starts it, gives orders with a time limit, and leaves nothing behind."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from typing import IO, Any, Iterator, List, Mapping

from targets.base import TargetError
from targets.replies import Orders, answered, parsed

STDERR_TAIL = 2000
POLL_S = 1.0


class AgentProcess:
    """A running agent, as `start` yields it."""

    def __init__(self, process: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
        self._process, self._stderr = process, stderr
        self._pending = b""
        self._orders = Orders()

    @property
    def pid(self) -> int:
        """Process id of the agent."""
        return self._process.pid

    def call(self, do: str, timeout_s: float, **arguments: Any) -> Any:
        """Give an order and return what it yields.

        Raises NoDeviceError or TargetError as the agent did, TargetError for any other failure of its
        runtime, for one that died (with the end of its stderr), and for one that outlasts `timeout_s`.
        """
        self._send(do, arguments)
        deadline_s = time.monotonic() + timeout_s
        while self._orders.unheard:
            self._line(do, deadline_s, timeout_s)
            self._orders.unheard -= 1
        return answered(parsed(self._line(do, deadline_s, timeout_s), do), self._orders.last, do)

    def tell(self, do: str, **arguments: Any) -> None:
        """Give an order and go on; what it yields, or raises, is not asked for."""
        self._send(do, arguments)
        self._orders.unheard += 1

    def _send(self, do: str, arguments: Mapping[str, Any]) -> None:
        try:
            self._stdin.write(self._orders.line(do, arguments))
            self._stdin.flush()
        except BrokenPipeError:
            raise self._died(do) from None

    @property
    def _stdin(self) -> Any:
        return self._process.stdin

    def _line(self, do: str, deadline_s: float, timeout_s: float) -> bytes:
        """Read to the end of a line, holding back what follows it."""
        stdout = self._process.stdout
        if stdout is None:
            raise self._died(do)
        chunks = [self._pending]
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in chunks[-1]:
                left_s = deadline_s - time.monotonic()
                if not selector.select(max(0.0, min(left_s, POLL_S))):
                    # A child of a dead agent may still hold the pipe open.
                    if self._process.poll() is not None:
                        raise self._died(do)
                    if left_s <= POLL_S:
                        raise TargetError(f"{do}: no answer within {timeout_s:g} s; the agent was stopped")
                    continue
                chunk = os.read(stdout.fileno(), 1 << 16)
                if not chunk:
                    raise self._died(do)
                chunks.append(chunk)
        line, _, self._pending = b"".join(chunks).partition(b"\n")
        return line

    def _died(self, do: str) -> TargetError:
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - STDERR_TAIL))
        said = " | ".join(self._stderr.read().decode(errors="replace").split("\n")[-6:]).strip(" |")
        return TargetError(f"{do}: the runtime's process died ({how}){': ' + said if said else ''}")


@contextmanager
def start(command: List[str], environment: Mapping[str, str]) -> Iterator[AgentProcess]:
    """Run an agent in a process group of its own; leaving the context kills the whole group."""
    with tempfile.TemporaryFile() as stderr:
        # A group of its own: Ctrl-C reaches only us, and we end the agent together with what it started.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=dict(environment),
            start_new_session=True,
        )
        try:
            yield AgentProcess(process, stderr)
        finally:
            with suppress(ProcessLookupError):  # all gone already
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):  # an order may still sit in its buffer
                        pipe.close()
