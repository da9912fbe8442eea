"""A wire between a client and a board that can be cut after so many bytes, or go dead without a word."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress


class Wire:
    """A TCP relay on loopback. `cuts` says after how many bytes towards the board each connection breaks."""

    def __init__(self, to: int, cuts: Sequence[int | None]) -> None:
        self._to, self._cuts = to, list(cuts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.sent: list[int] = []  # bytes towards the board, by connection
        self.dead = threading.Event()  # set: nothing gets through any more, and nobody is told
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Cut everything."""
        for end in (self._listener, *self._open):
            _hang_up(end)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            board = socket.create_connection(("127.0.0.1", self._to))
            self._open += [client, board]
            index = len(self.sent)
            self.sent.append(0)
            cut = self._cuts[index] if index < len(self._cuts) else None
            threading.Thread(target=self._pump, args=(client, board, index, cut), daemon=True).start()
            threading.Thread(target=self._pump, args=(board, client, None, None), daemon=True).start()

    def _pump(self, source: socket.socket, to: socket.socket, index: int | None, cut: int | None) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 14):
                if self.dead.is_set():
                    self.dead.wait()
                    continue
                if index is not None:
                    self.sent[index] += len(data)
                    if cut is not None and self.sent[index] > cut:
                        break
                to.sendall(data)
        if not self.dead.is_set():
            _hang_up(source)
            _hang_up(to)


def _hang_up(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextmanager
def wire(to: int, cuts: Sequence[int | None] = ()) -> Iterator[Wire]:
    """A relay to a port, up while the context lasts."""
    made = Wire(to, cuts)
    try:
        yield made
    finally:
        made.close()
