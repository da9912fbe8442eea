"""One model and one engine in a process of its own; `zoo.py` starts it.

Reads a request as JSON from standard input and writes what it finds as lines of JSON, the phase it is in first,
so that a process which is killed leaves what it had found. An engine that runs past the limit dies of SIGALRM.
"""

import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks import zoo_graph, zoo_models
from pipeline.errors import UserError
from pipeline.pruning import count

Inputs = tuple[Tensor, ...]
Request = dict[str, Any]
Emit = Callable[..., None]


class BrokenError(Exception):
    """A pruned model that does not do what it must."""


def main() -> None:
    """Answer one request. Whatever is raised is the answer, too: its first line, under "why"."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print

    def emit(**found: Any) -> None:
        print(json.dumps(found), file=replies, flush=True)

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        line = str(error).strip().partition("\n")[0]
        emit(why=line if kind is BrokenError else f"{kind.__name__}: {line}")
        sys.__excepthook__(kind, error, trace)

    sys.excepthook = uncaught
    request = json.load(sys.stdin)
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (request["memory_bytes"], resource.RLIM_INFINITY))
    emit(phase="build")
    model, inputs = zoo_models.build(request["model"])
    if request["engine"] == "original":
        original(model, inputs, emit)
    else:
        pruned(model, inputs, request, emit)
    emit(phase="done")


def original(model: nn.Module, inputs: Inputs, emit: Emit) -> None:
    """Find out what a pruned model is held against."""
    emit(phase="forward", params=_params(model))
    outputs = run(model, inputs)
    finite = all(bool(t.isfinite().all()) for t in outputs)
    emit(phase="capture", shapes=[list(t.shape) for t in outputs], finite=finite)
    found = recount(model, inputs)
    if found["macs"] is None:
        emit(**found, kind="unknown", heads=zoo_graph.likely_heads(model, outputs))
    else:
        program = zoo_graph.export(model, inputs)
        emit(**found, kind=zoo_graph.kind(program), heads=zoo_graph.heads(program))
    emit(phase="train")
    train(model, inputs)


def pruned(model: nn.Module, inputs: Inputs, request: Request, emit: Emit) -> None:
    """Prune, and unless only time is asked for, see for ourselves what came out."""
    known, ignored = request["original"], set(request["original"]["heads"])
    before = {n: w for n, w in zoo_graph.layer_widths(model).items() if n not in ignored}
    engine = importlib.import_module(f"benchmarks.zoo_engines.{request['engine'].replace('-', '_')}")
    emit(phase="prune", before_mb=_peak_mb())
    signal.setitimer(signal.ITIMER_REAL, request["limit_s"])
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    try:
        model, found = engine.cut(model, inputs, request)
    except UserError as refusal:
        emit(status="refused", why=str(refusal))
        return
    seconds, cpu_seconds = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    signal.setitimer(signal.ITIMER_REAL, 0)
    emit(phase="forward", seconds=seconds, cpu_seconds=cpu_seconds, peak_mb=_peak_mb(), **found)
    if request["time"]:
        return
    after = zoo_graph.layer_widths(model)
    kept = sum(after.get(name, 0) for name in before)
    emit(params=_params(model), layers_removed=1 - kept / max(sum(before.values()), 1))
    _same_shape(run(model, inputs), known)
    if known["trains"]:
        emit(phase="train")
        train(model, inputs)
    emit(phase="count")
    run(model.eval(), inputs)  # models that keep tensors between calls let go of those with a gradient
    recounted = recount(model, inputs)
    emit(**recounted)
    _as_promised(found, recounted, _params(model))


def run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Return every tensor of the output."""
    with torch.no_grad():
        return [t for t in pytree.tree_leaves(model(*inputs)) if isinstance(t, Tensor)]


def train(model: nn.Module, inputs: Inputs) -> None:
    """Take one step down the sum of the outputs' means."""
    model.train()
    outputs = [t for t in pytree.tree_leaves(model(*inputs)) if isinstance(t, Tensor) and t.requires_grad]
    torch.stack([t.mean() for t in outputs]).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1e-3).step()


def recount(model: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """Count multiply-accumulates from scratch; None and why where the model cannot be captured."""
    try:
        return {"macs": count(model, inputs).macs}
    except UserError as error:
        return {"macs": None, "uncounted": str(error)}


def _same_shape(outputs: list[Tensor], known: dict[str, Any]) -> None:
    shapes = [list(t.shape) for t in outputs]
    if shapes != known["shapes"]:
        raise BrokenError(f"outputs of shape {known['shapes']} became {shapes}")
    if known["finite"] and not all(bool(t.isfinite().all()) for t in outputs):
        raise BrokenError("outputs are no longer finite")


def _as_promised(found: dict[str, Any], recounted: dict[str, Any], params: int) -> None:
    """Hold an engine to what it said of its result, as far as it said anything."""
    if found.get("params_predicted", params) != params:
        raise BrokenError(f"{params} parameters, the plan predicts {found['params_predicted']}")
    if found.get("macs_predicted", recounted["macs"]) != recounted["macs"]:
        counted = recounted["macs"] or recounted["uncounted"]
        raise BrokenError(f"multiply-accumulates: {counted}, the plan predicts {found['macs_predicted']}")
    if not found.get("proved", True):
        raise BrokenError(f"the proof fails, relative error {found['proof_error']}")


def _params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
