"""What a person sees while work goes on: bars in a terminal, a line per finished task elsewhere."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pipeline.progress import Bar


@dataclass
class _Task:
    shown: Progress
    task: TaskID
    note: str = ""

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.note = note or self.note
        self.shown.update(self.task, advance=steps, note=self.note)


class ConsoleProgress:
    """Progress on a rich console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._shown: Progress | None = None  # shared by bars that are open at once: a terminal shows one at a time
        self._open = 0

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Bar]:
        """A bar with count, elapsed and remaining time; one line remains of it when it has finished."""
        start_s = time.perf_counter()
        with self._display() as shown:
            task = _Task(shown, shown.add_task(label, total=total, note=""))
            try:
                yield task
            finally:
                shown.remove_task(task.task)
        took_s = time.perf_counter() - start_s
        self._console.print(Text(f"✓ {label}  {took_s:.1f} s  {task.note}".rstrip(), style="dim"))

    @contextmanager
    def _display(self) -> Iterator[Progress]:
        """The bars on the terminal: started with the first one, stopped with the last."""
        with self._lock:
            if self._shown is None:
                self._shown = self._made()
                self._shown.start()
            self._open += 1
            shown = self._shown
        try:
            yield shown
        finally:
            with self._lock:
                self._open -= 1
                if not self._open:
                    shown.stop()
                    self._shown = None

    def _made(self) -> Progress:
        return Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
