"""What else keeps the machine busy during a trial; ends when its standard input does.

    python benchmarks/gate_load.py busy|bursts|drift SEED

busy: one process that computes all the time. bursts: two that compute for 0.3 s on average, and rest for 0.7 s,
both by chance. drift: one that computes for a share of every 20 ms which grows from nothing to all within 8 s.
"""

import multiprocessing
import os
import random
import sys
import time

CONDITIONS = ("quiet", "busy", "bursts", "drift")
BURST_S, REST_S = 0.3, 0.7
PERIOD_S, RAMP_S = 0.02, 8.0


def compute(until_s: float) -> None:
    """Keep a core busy until then, in cache and out of it."""
    block, total = bytearray(1 << 20), 0
    while time.monotonic() < until_s:
        total += sum(block[::4096])
        block[:] = block[::-1]


def busy() -> None:
    """All the time."""
    compute(float("inf"))


def bursts(seed: int) -> None:
    """By chance."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    while True:
        time.sleep(draw.expovariate(1 / REST_S))
        compute(time.monotonic() + draw.expovariate(1 / BURST_S))


def drift() -> None:
    """More and more, then all the time."""
    start_s = time.monotonic()
    while True:
        now_s = time.monotonic()
        share = min(1.0, (now_s - start_s) / RAMP_S)
        compute(now_s + share * PERIOD_S)
        time.sleep((1 - share) * PERIOD_S)


def main() -> None:
    """Start the load and end it with our standard input."""
    kind, seed = sys.argv[1], int(sys.argv[2])
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # whatever class the benchmark was started in
    started = {"busy": [(busy, ())], "bursts": [(bursts, (seed,)), (bursts, (seed + 1,))], "drift": [(drift, ())]}
    workers = [multiprocessing.Process(target=work, args=args, daemon=True) for work, args in started[kind]]
    for worker in workers:
        worker.start()
    print("started", flush=True)
    sys.stdin.buffer.read()
    for worker in workers:
        worker.kill()
    os._exit(0)


if __name__ == "__main__":
    main()
