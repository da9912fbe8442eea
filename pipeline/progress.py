"""How long work tells how far it is, without knowing who listens."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """One running task."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` as done; `note` (loss, accuracy …) is shown beside the bar."""


class Progress(Protocol):
    """Where a stage reports to."""

    def bar(self, label: str, total: int) -> AbstractContextManager[Bar]:
        """Open a bar of `total` steps that closes with the context. Several may be open at once."""


class _Silent:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Bar]:
        yield self


SILENT: Progress = _Silent()
