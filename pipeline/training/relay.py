"""Progress and errors of one process, told in another."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType

from pipeline.errors import UserError
from pipeline.progress import Bar, Progress


@dataclass(frozen=True)
class _Opened:
    label: str
    total: int


@dataclass(frozen=True)
class _Advanced:
    steps: int
    note: str


@dataclass(frozen=True)
class _Closed:
    pass


@dataclass(frozen=True)
class _Failed:
    line: str


@dataclass(frozen=True)
class Relay:
    """A progress whose bars, one at a time, are shown at the other end of a connection."""

    connection: Connection

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Bar]:
        """Open a bar there; see `Progress`. One that an error ends is left open."""
        self.connection.send(_Opened(label, total))
        yield self
        self.connection.send(_Closed())

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count there; see `Bar`."""
        self.connection.send(_Advanced(steps, note))

    def failed(self, error: UserError) -> None:
        """Raise the error there."""
        self.connection.send(_Failed(str(error)))


class Listener:
    """The other end, for as long as the context lasts: shows on `progress` what any of the connections sends."""

    def __init__(self, progress: Progress, connections: list[Connection]) -> None:
        self.connections = list(connections)  # those that may yet send
        self._progress, self._open = progress, ExitStack()
        self._bar: Bar | None = None

    def __enter__(self) -> "Listener":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def catch_up(self) -> None:
        """Show what has arrived. Raises the UserError of a process that had one."""
        for connection in tuple(self.connections):
            try:
                while connection.poll():
                    self._show(connection.recv())
            except (EOFError, ConnectionResetError):  # its process has ended
                self.connections.remove(connection)

    def _show(self, message: _Opened | _Advanced | _Closed | _Failed) -> None:
        if isinstance(message, _Failed):
            raise UserError(message.line)
        if isinstance(message, _Opened):
            self._bar = self._open.enter_context(self._progress.bar(message.label, message.total))
        elif isinstance(message, _Advanced) and self._bar is not None:
            self._bar.advance(message.steps, message.note)
        else:
            self._open.close()
