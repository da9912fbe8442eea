"""An agent on a board: started, given orders with a time limit, and surely ended."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import deque
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, Deque, Dict, Mapping

from targets.base import TargetError
from targets.devices import _bootstrap
from targets.devices._link import ANSWER_S, Link
from targets.devices._trouble import drops, lost
from targets.devices.base import DeviceLostError
from targets.guard import BEAT
from targets.replies import Orders, answered, parsed

START_S = 60.0  # for an interpreter to start, on a slow card
END_S = 5.0
NOISE_LINES = 200  # that a login shell may print first
STDERR_CHUNKS = 20
NOT_FOUND = 127  # what shells exit with where there is no such program


@dataclass(frozen=True)
class Start:
    """What an agent is started with."""

    root: str  # folder there
    agent: str  # sha256 of the package
    environment: Mapping[str, str]
    lease_s: float  # without a sign of life for so long it ends


class RemoteProcess:
    """One agent. Its methods run in the event loop's thread."""

    def __init__(self, link: Link, start: Start) -> None:
        self._link, self._start = link, start
        self._stack = AsyncExitStack()
        self._process: Any = None
        self._pending = b""
        self._stderr: Deque[bytes] = deque(maxlen=STDERR_CHUNKS)
        self._orders = Orders()
        self._ready: Mapping[str, Any] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pid(self) -> int:
        """Process id there."""
        return int(self._ready["pid"])

    async def open(self) -> None:
        """Start it, over a new connection where the one at hand was lost while idle."""
        for last in (False, True):
            try:
                await self._open()
                return
            except drops() as error:
                await self.close()
                if last:
                    raise lost(self._link.name, "starting an agent", error) from error
            except BaseException:
                await self.close()
                raise

    async def call(self, do: str, timeout_s: float, arguments: Mapping[str, Any]) -> Any:
        """Give an order and return what it yields.

        Raises NoDeviceError or TargetError as the agent did, DeviceLostError where it died, the connection was
        lost, or no answer came in time.
        """
        self._send(do, arguments)
        try:
            reply = await asyncio.wait_for(self._reply(do), timeout_s)
        except (asyncio.TimeoutError, TimeoutError):
            why = f"{do}: no answer within {timeout_s:g} s; the agent was stopped"
            raise DeviceLostError(f"{self._link.name}: {why}") from None
        except drops() as error:
            raise lost(self._link.name, f"it did {do}", error) from error
        return answered(reply, self._orders.last, do, f"{self._link.name}: ")

    async def tell(self, do: str, arguments: Mapping[str, Any]) -> None:
        """Give an order and go on; what it yields, or raises, is not asked for."""
        self._send(do, arguments)
        self._orders.unheard += 1

    def _send(self, do: str, arguments: Mapping[str, Any]) -> None:
        try:
            self._process.stdin.write(self._orders.line(do, arguments))
        except drops() as error:
            raise lost(self._link.name, f"it did {do}", error) from error

    async def close(self) -> None:
        """End it and all it started; by a second session where it does not end by itself."""
        for task in self._tasks:
            task.cancel()
        if self._process is not None:
            process, self._process = self._process, None
            with suppress(*drops()):
                process.stdin.write_eof()
            with suppress(*drops()):
                await asyncio.wait_for(process.wait_closed(), END_S)
            if process.exit_status is None and process.exit_signal is None and self._ready:
                await self._kill()
            process.close()
        await self._stack.aclose()

    async def _open(self) -> None:
        connection = await self._stack.enter_async_context(self._link.connection())
        self._process = await self._session(connection)
        self._tasks = [asyncio.ensure_future(self._listen())]
        first = {
            "root": self._start.root,
            "agent": self._start.agent,
            "environment": dict(self._start.environment),
            "lease_s": self._start.lease_s,
        }
        self._process.stdin.write(json.dumps(first).encode() + b"\n")
        self._ready = await asyncio.wait_for(self._greeting(), START_S)
        self._tasks.append(asyncio.ensure_future(self._beat()))

    async def _session(self, connection: Any) -> Any:
        command = _bootstrap.command(self._link.address.python)
        return await asyncio.wait_for(connection.create_process(command, encoding=None), ANSWER_S)

    async def _greeting(self) -> Mapping[str, Any]:
        """Skip what the login shell prints until the guard speaks."""
        for _ in range(NOISE_LINES):
            line = await self._line("start")
            with suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict) and "error" in said:
                    raise TargetError(f"{self._link.name}: {said['error']}")
                if isinstance(said, dict) and "ready" in said:
                    return dict(said["ready"])
        raise TargetError(f"{self._link.name}: the login shell there prints without end: {line[:80]!r}")

    async def _reply(self, do: str) -> Dict[str, Any]:
        while self._orders.unheard:
            await self._line(do)
            self._orders.unheard -= 1
        return parsed(await self._line(do), do, f"{self._link.name}: ")

    async def _line(self, do: str) -> bytes:
        """Read to the end of a line, holding back what follows it."""
        chunks = [self._pending]
        while b"\n" not in chunks[-1]:
            chunk = await self._process.stdout.read(1 << 16)
            if not chunk:
                raise await self._died(do)
            chunks.append(chunk)
        line, _, self._pending = b"".join(chunks).partition(b"\n")
        return line

    async def _died(self, do: str) -> TargetError:
        process, name = self._process, self._link.name
        with suppress(*drops()):
            await asyncio.wait_for(process.wait_closed(), END_S)
        said = b"".join(self._stderr).decode(errors="replace")
        if process.exit_status is None and process.exit_signal is None:
            return lost(name, f"it did {do}", ConnectionError("connection closed"))
        if process.exit_status == NOT_FOUND and not self._ready:
            return TargetError(
                f"{name}: there is no {self._link.address.python} there; name an interpreter by ?python="
            )
        if _bootstrap.TAMPERED in said:
            path = said.partition(_bootstrap.TAMPERED)[2].split("\n")[0]
            return TargetError(
                f"{name}: the agent kept there was changed since it was copied; nothing was run. Remove {path}"
            )
        tail = " | ".join(said.split("\n")[-6:]).strip(" |")
        return DeviceLostError(
            f"{name}: {do}: the runtime's process died ({_how(process)}){': ' + tail if tail else ''}"
        )

    async def _listen(self) -> None:
        with suppress(*drops()):
            while chunk := await self._process.stderr.read(4096):
                self._stderr.append(chunk)

    async def _beat(self) -> None:
        """Signs of life: where none come, the guard there ends the agent."""
        with suppress(*drops(), BrokenPipeError):
            while True:
                await asyncio.sleep(self._start.lease_s / 4)
                self._process.stdin.write(BEAT)

    async def _kill(self) -> None:
        """End an agent whose guard does not, from another session; over the same connection or a new one."""
        order = {"root": self._start.root, "agent": self._start.agent}
        with suppress(TargetError, *drops()):
            async with self._link.connection() as connection:
                process = await self._session(connection)
                process.stdin.write(json.dumps({**order, "kill": self._ready["processes"]}).encode() + b"\n")
                await asyncio.wait_for(process.wait_closed(), END_S)


def _how(process: Any) -> str:
    if process.exit_signal is not None:
        return f"SIG{process.exit_signal[0]}"
    code = int(process.exit_status)
    named = {128 + number.value: number.name for number in signal.Signals}
    return named.get(code, f"exit code {code}")
