"""What runs on the device: builds, loads, runs and times one artifact, on orders that come as lines of JSON.

    $ python -m targets.agent
    {"id": 1, "do": "versions", "target": "targets.backends.cpu:Cpu", "options": {}}
    {"id": 1, "ok": {"openvino": "2026.4.1"}}

One process serves one artifact, so that nothing of another's caches, threads or memory is in its figures.
Each order gets one answer, `ok` or `error: {kind, message}`. The process ends with `quit`, or as soon as its
standard input closes, even amid an order: whoever gave it is gone.
"""

from __future__ import annotations

import base64
import io
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Mapping, NoReturn, Optional

import numpy as np

from targets import depot, npz, plugins, timing, usage
from targets.base import NoDeviceError, OwnClock, Profiled, Streaming, TargetError
from targets.board.orders import orders as board_orders

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from targets.base import Runner, Target, Tensors

LONGEST_LINE = 1 << 20
Order = Mapping[str, Any]


class Agent:
    """The artifact that is loaded, and the orders that can be given about it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._runner: Optional[Runner] = None
        self._streams: List[Runner] = []
        self._feeds: Tensors = {}
        self.orders: Dict[str, Callable[[Order], Any]] = {
            "versions": lambda order: _target(order).versions(),
            "fingerprint": _fingerprint,
            "runs_here": lambda order: _target(order).runs_here(),
            "prepare": lambda order: _target(order).prepare(),
            "build": self._build,
            "load": self._load,
            "warm": self._warm,
            "block": self._block,
            "infer": self._infer,
            "run": self._run,
            "kernels": lambda _: [asdict(kernel) for kernel in self._loaded().kernels()],
            "layers": self._layers,
            "cores": lambda order: usage.quietest(int(order["count"])),
            "usage": lambda _: usage.usage(children=isinstance(self._runner, OwnClock)),
            **depot.ORDERS,
            **board_orders(lambda: (self._loaded(), self._feeds)),
        }

    def _build(self, order: Order) -> None:
        _target(order).build(Path(order["onnx"]), Path(order["out"]))

    def _load(self, order: Order) -> Dict[str, float]:
        """Open an artifact on the given cores; where there are `feeds`, keep their first batch and call it once.

        The times are those of a cold start: opening, and the first call.
        """
        if self._runner is not None:
            raise TargetError("an artifact is loaded already: one process serves one")
        target = _target(order)
        usage.pin(order.get("cores", ()))  # before the runtime starts its threads
        start_s = time.perf_counter()
        self._runner = self._stack.enter_context(target.open(Path(order["built"])))
        load_s = time.perf_counter() - start_s
        if "feeds" not in order:
            return {"load_s": load_s}
        feeds = Path(order["feeds"])
        _check_names(self._runner, feeds)
        self._feeds = npz.first(feeds, _batch(self._runner))
        start_s = time.perf_counter()
        self._runner(self._feeds)
        first_call_s = time.perf_counter() - start_s
        return {"load_s": load_s, "first_call_s": first_call_s, "batch": _batch(self._runner)}

    def _warm(self, order: Order) -> Dict[str, Any]:
        """Warm up the first stream, and open the others."""
        warm = timing.warm_up(self._loaded(), self._feeds, float(order["limit_s"]))
        self._streams = _streams(self._loaded(), int(order.get("streams", 1)))
        return {**asdict(warm), "clock_ns": timing.clock_step_ns()}

    def _block(self, order: Order) -> Dict[str, Any]:
        """Time calls: of one stream after another, or of all streams at once, so many of each."""
        calls = int(order["calls"])
        if len(self._streams) > 1:
            return asdict(timing.together(self._streams, self._feeds, calls))
        samples = timing.block(self._loaded(), self._feeds, calls)
        return {"samples_ns": samples, "wall_ns": sum(samples)}

    def _layers(self, order: Order) -> List[Dict[str, Any]]:
        run = self._loaded()
        if not isinstance(run, Profiled):
            return []
        return [asdict(layer) for layer in run.layers(self._feeds, int(order["calls"]))]

    def _infer(self, order: Order) -> Dict[str, int]:
        """Run every sample of `feeds`; a static batch is filled up at the end and the surplus dropped."""
        run, feeds = self._loaded(), Path(order["feeds"])
        _check_names(run, feeds)
        with npz.reader(feeds) as headers:
            total = next(iter(headers.values())).shape[0]
        npz.write(Path(order["out"]), _outputs(run, feeds), total)
        return {"samples": total}

    def _run(self, order: Order) -> str:
        """Make one call with `arrays`, an .npz file in base64, or `feeds`, a file; return its outputs in base64."""
        given: Any = io.BytesIO(base64.b64decode(order["arrays"])) if "arrays" in order else Path(order["feeds"])
        with np.load(given, allow_pickle=False) as loaded:
            outputs = self._loaded()(dict(loaded))
        written = io.BytesIO()
        npz.save(written, outputs)
        return base64.b64encode(written.getvalue()).decode("ascii")

    def _loaded(self) -> Runner:
        if self._runner is None:
            raise TargetError("no artifact is loaded: send load first")
        return self._runner


def answer(orders: Mapping[str, Callable[[Order], Any]], line: bytes) -> Dict[str, Any]:
    """Carry out one order and return what to say. Never raises: the other side must hear of every failure."""
    order: Any = None
    try:
        order = _parse(line, orders)
        return {"id": order.get("id"), "ok": orders[order["do"]](order)}
    except TargetError as error:
        kind = "NoDeviceError" if isinstance(error, NoDeviceError) else "TargetError"
        failure = {"kind": kind, "message": str(error)}
    except KeyError as error:
        failure = {"kind": "TargetError", "message": f"{order['do']}: {error} is missing"}
    except Exception as error:  # a runtime raises what it likes; the trace goes to stderr, the gist over the wire
        traceback.print_exc()
        failure = {
            "kind": type(error).__name__,
            "message": " ".join(str(error).split())[:500] or "no message",
        }
    return {"id": order.get("id") if isinstance(order, dict) else None, "error": failure}


def serve(lines: IO[bytes], out: IO[bytes]) -> None:
    """Answer orders until `quit`. Ends the process when `lines` ends."""
    inbox: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_receive, args=(lines, inbox), daemon=True).start()
    with ExitStack() as stack:
        agent = Agent(stack)
        while True:
            line = inbox.get()
            said = answer({**agent.orders, "quit": lambda _: None}, line)
            out.write(json.dumps(said).encode() + b"\n")
            out.flush()
            if "ok" in said and json.loads(line)["do"] == "quit":
                return


def main() -> None:
    """Serve standard input and output, keeping whatever else writes to the latter off the protocol."""
    protocol = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, protocol)
    # The reader is blocked inside stdin: an orderly exit of the interpreter would abort on its lock.
    os._exit(0)


def _receive(lines: IO[bytes], inbox: queue.Queue[bytes]) -> None:
    """Read ahead, so that the end of input is seen while an order is being carried out."""
    while True:
        line = lines.readline(LONGEST_LINE)
        if not line:
            _end_abruptly()
        inbox.put(line)


def _end_abruptly() -> NoReturn:
    """End at once, without handlers: native code may be deep in a build. Takes our process group along."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _parse(line: bytes, orders: Mapping[str, Any]) -> Dict[str, Any]:
    try:
        order = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TargetError(f"not a line of JSON: {line[:80]!r}") from error
    if not isinstance(order, dict):
        raise TargetError(f"not a JSON object: {line[:80]!r}")
    if not isinstance(order.get("do"), str) or order["do"] not in orders:
        raise TargetError(f"unknown order {order.get('do')!r}; have: {', '.join(orders)}")
    return order


def _target(order: Order) -> Target:
    return plugins.from_spec(order["target"], order.get("options", {}))


def _fingerprint(order: Order) -> Dict[str, Any]:
    from targets.fingerprint import fingerprint  # its modules take a tenth of an agent's start, and few need them

    return asdict(fingerprint(_target(order)))


def _batch(run: Runner) -> int:
    """Return the batch the model was built for; 1 where it takes any."""
    return max(1, next(iter(run.inputs.values()), (1,))[0])


def _check_names(run: Runner, feeds: Path) -> None:
    """Raise TargetError unless the file has the model's inputs, in shapes that fit."""
    with npz.reader(feeds) as headers:
        if set(headers) != set(run.inputs):
            raise TargetError(f"{feeds} has {sorted(headers)}, the model takes {sorted(run.inputs)}")
        for name, shape in run.inputs.items():
            given = headers[name].shape
            fits = len(given) == len(shape) and all(w in (-1, g) for w, g in zip(shape[1:], given[1:]))
            if not fits:
                raise TargetError(f"{feeds}: {name} is {given}, the model takes {shape}")


def _streams(run: Runner, count: int) -> List[Runner]:
    """The runner and as many more of the same model as make `count`."""
    if count > 1 and not isinstance(run, Streaming):
        raise TargetError("this target runs one call at a time: it has no streams for timing.mode throughput")
    return [run, *(run.stream() for _ in range(count - 1) if isinstance(run, Streaming))]


def _outputs(run: Runner, feeds: Path) -> Iterator[Dict[str, NDArray[np.generic]]]:
    size = _batch(run)
    for arrays, valid in npz.batches(feeds, size):
        results = run(arrays)
        for name, array in results.items():
            if array.ndim == 0 or len(array) != size:
                raise TargetError(f"output {name} has shape {array.shape}: no batch of {size}")
        yield {name: array[:valid] for name, array in results.items()}


if __name__ == "__main__":
    main()
