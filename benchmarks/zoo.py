"""Every model of torchvision and one of every family of timm, pruned by half: edgesmith beside Torch-Pruning.

Each model and engine has a process of its own, one thread, and a limit of 120 s for the engine's work; with building
and checking it may take three times that. What comes out is checked here, whatever the engine says of it: the
pruned model runs, keeps its output shapes, takes a training step, and counts the parameters and
multiply-accumulates that were promised. Results are written after every process: run again to go on.

    python benchmarks/zoo.py [--models tv:resnet18 'timm:*' FILE.py:FUNCTION] [--json FILE] [--jobs N]
    python benchmarks/zoo.py --time --models tv:resnet50      seconds of each engine, in turns, fresh processes

Needs `pip install '.[bench]'`. torchvision's wheel must fit torch: both from https://download.pytorch.org/whl/cpu.
Where only a CUDA build of torchvision can be had, `import torchvision` works beside a CPU torch once the lines with
`_meta_registrations` and `_autograd_registrations` are gone from its `__init__.py`: its own ops are not needed here.

Exits with 1 if edgesmith breaks a model.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import zoo_report

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ["edgesmith", "torch-pruning"]
PACKAGES = ("torch", "torchvision", "timm", "torch-pruning")
ROUNDS = 3
WIDTH = 150
WILD = set("*?[")

Record = dict[str, Any]


def main() -> None:
    """Run and print."""
    args = arguments()
    console = Console()
    console.width = max(console.width, WIDTH)  # piped, it would be cut at 80
    zoo = Zoo(args, console)
    names = selected(args.models)
    try:
        asyncio.run(zoo.timed(names) if args.time else zoo.compared(names))
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on from here" if args.json else "interrupted")
    if args.time:
        console.print(zoo_report.timings(zoo.times, args.engines))
        return
    finished = {name: zoo.models[name] for name in names if zoo.models.get(name)}
    console.print(zoo_report.table(finished, args.engines))
    for line in zoo_report.summary(finished, args.engines, args.ratio):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    sys.exit(any(records.get("edgesmith", {}).get("status") == "broken" for records in finished.values()))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["*"], metavar="NAME", help="wildcards allowed")
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=ENGINES)
    parser.add_argument("--ratio", type=float, default=0.5, help="share of the channels to remove")
    parser.add_argument("--form", choices=("auto", "module", "graph"), help="passed on to edgesmith if given")
    parser.add_argument("--limit", type=float, default=120, metavar="SECONDS", help="for an engine's work")
    parser.add_argument("--memory", type=float, metavar="GB", help="for one process; 80%% of the machine's / jobs")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where results are kept; there, run again to go on")
    parser.add_argument("--again", nargs="+", default=[], choices=zoo_report.STATUSES, help="redo these in FILE")
    parser.add_argument("--time", action="store_true", help=f"only seconds: {ROUNDS} rounds, engines in turns")
    return parser.parse_args()


def selected(patterns: list[str]) -> list[str]:
    """Return the names in the order given; patterns are matched with the names of the whole zoo."""
    wild = any(WILD & set(pattern) for pattern in patterns)
    listing = [sys.executable, str(ROOT / "benchmarks" / "zoo_models.py")]
    known = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split() if wild else []
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = [n for n in known if fnmatchcase(n, pattern)] if WILD & set(pattern) else [pattern]
        if not found:
            raise SystemExit(
                f"--models: {pattern!r} matches none of the zoo; names look like tv:resnet18, timm:lcnet_035"
            )
        chosen.update(dict.fromkeys(found))
    return list(chosen)


class Zoo:
    """Results so far, and the processes that add to them."""

    def __init__(self, args: argparse.Namespace, console: Console) -> None:
        self.args = args
        self.console = console
        self.slots = asyncio.Semaphore(args.jobs)
        self.times: dict[str, dict[str, list[Record]]] = {}
        memory_bytes = args.memory * 1e9 if args.memory else 0.8 * _physical_bytes() / args.jobs
        self.request = {
            "ratio": args.ratio,
            "limit_s": args.limit,
            "settings": {"form": args.form} if args.form else {},
            "memory_bytes": int(memory_bytes),
            "time": args.time,
        }
        self.head = {"versions": _versions(), **self.request}
        self.models = {} if args.time else self._stored()

    async def compared(self, names: list[str]) -> None:
        """Run every engine on every model, as many at a time as there are jobs."""
        for failure in await asyncio.gather(*(self._model(name) for name in names), return_exceptions=True):
            if failure:
                raise failure

    async def timed(self, names: list[str]) -> None:
        """Time the engines in turns: first, second, first, second."""
        for name in names:
            original = await self._ask(name, "original", {})
            self.times[name] = {engine: [] for engine in self.args.engines}
            for engine in self.args.engines * ROUNDS if original["status"] == "ok" else ():
                found = await self._ask(name, engine, original)
                if found["status"] == "ok":
                    self.times[name][engine].append({key: found[key] for key in ("seconds", "cpu_seconds")})
            self._save({"times": self.times})

    async def _model(self, name: str) -> None:
        records = self.models.setdefault(name, {})
        async with self.slots:
            for engine in ["original", *self.args.engines]:
                if engine not in records and (engine == "original" or records["original"]["status"] == "ok"):
                    records[engine] = await self._ask(name, engine, records.get("original", {}))
                    self._save({"models": {n: r for n, r in self.models.items() if r}})

    async def _ask(self, name: str, engine: str, original: Record) -> Record:
        found, code = await answer({**self.request, "model": name, "engine": engine, "original": original})
        record = {**found, **verdict(engine, found, code)}
        seconds = f"  {record['seconds']:.1f} s" if "seconds" in record else ""
        line = f"{name}  {engine}  {record['status']}{seconds}  {record.get('why', '')}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        return record

    def _stored(self) -> dict[str, dict[str, Record]]:
        file = self.args.json
        if not (file and file.exists()):
            return {}
        stored = json.loads(file.read_text())
        differs = [key for key, value in self.head.items() if stored.get(key) != value and key != "memory_bytes"]
        if differs:
            raise SystemExit(f"{file} was written with other {', '.join(differs)}: name another --json, or remove it")
        models: dict[str, dict[str, Record]] = stored["models"]
        return {n: {e: r for e, r in rs.items() if r["status"] not in self.args.again} for n, rs in models.items()}

    def _save(self, results: dict[str, Any]) -> None:
        if file := self.args.json:
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_name(f"{file.name}.part")
            part.write_text(json.dumps({**self.head, **results}, indent=1))
            part.replace(file)


async def answer(request: dict[str, Any]) -> tuple[Record, int | None]:
    """Ask a worker; return all it found, and its exit code, None if it ran out of time."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryFile() as replies, tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(ROOT / "benchmarks" / "zoo_worker.py"),
            stdin=asyncio.subprocess.PIPE,
            stdout=replies,
            stderr=errors,
            env=environment,
            start_new_session=True,  # so that what it starts can be ended with it
        )
        code = None
        try:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.communicate(json.dumps(request).encode()), 3 * request["limit_s"])
                code = process.returncode
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        found: Record = {"phase": "start"}
        for file in (replies, errors):
            file.seek(0)
        for line in replies:
            found |= json.loads(line)
        last = errors.read().decode(errors="replace").strip().rpartition("\n")[2]
    return ({"why": last} if code else {}) | found, code


def verdict(engine: str, found: Record, code: int | None) -> Record:
    """Return the status of what a worker found, and the reason where it needs one."""
    phase, why = found["phase"], found.get("why", "")
    if "status" in found:
        return {}
    if engine == "original" and phase in ("train", "done"):
        return {"status": "ok", "trains": phase == "done"}
    if code is None or code == -signal.SIGALRM:
        return {"status": "time-out", "why": f"in {phase}"}
    if code == -signal.SIGKILL or why.startswith("MemoryError") or "can't allocate memory" in why:
        return {"status": "memory", "why": f"in {phase}"}
    if engine == "original":
        return {"status": "skipped"}
    done = phase == "done" or (
        phase == "count" and engine != "edgesmith"
    )  # our counter may not capture what others cut
    return {"status": "ok"} if done else {"status": "broken", "why": f"{phase}: {why or f'exit code {code}'}"}


def _versions() -> dict[str, str]:
    here = {d.metadata["Name"].lower(): d.version for d in metadata.distributions()}
    return {"python": sys.version.partition(" ")[0], **{p: here[p] for p in PACKAGES if p in here}}


def _physical_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
