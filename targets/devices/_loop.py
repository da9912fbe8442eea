"""One thread with an event loop, for everything that goes over the network; what calls it stays synchronous."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from functools import lru_cache
from typing import Any, Coroutine, TypeVar

T = TypeVar("T")
_starting = threading.Lock()  # the cache alone would let two threads start a loop each


@lru_cache(maxsize=1)
def _started() -> asyncio.AbstractEventLoop:
    made = asyncio.new_event_loop()
    threading.Thread(target=made.run_forever, name="edgesmith-ssh", daemon=True).start()
    return made


def _loop() -> asyncio.AbstractEventLoop:
    with _starting:
        return _started()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in the loop's thread and return its result. An interrupt here cancels it there."""
    future: Future[T] = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
