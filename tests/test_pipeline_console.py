"""Bars that are open at once, in one thread and in several."""

import io
import threading

from rich.console import Console

from pipeline.console import ConsoleProgress


def test_bars_within_bars_and_in_threads_share_one_display() -> None:
    out = io.StringIO()
    progress = ConsoleProgress(Console(file=out, force_terminal=True, width=120))
    inside = threading.Barrier(3)

    def work(name: str) -> None:
        with progress.bar(name, 2) as bar:
            inside.wait(timeout=30)
            bar.advance(2, note=f"note of {name}")

    with progress.bar("outer", 1) as outer:
        threads = [threading.Thread(target=work, args=(f"inner {i}",)) for i in range(2)]
        for thread in threads:
            thread.start()
        inside.wait(timeout=30)
        for thread in threads:
            thread.join()
        outer.advance()
    with progress.bar("after", 1) as bar:
        bar.advance()
    for name in ("outer", "inner 0", "inner 1", "after"):
        assert f"✓ {name}" in out.getvalue()
    assert "note of inner 1" in out.getvalue()
