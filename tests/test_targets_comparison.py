from hypothesis import given
from hypothesis import strategies as st

from targets.base import Kernel
from targets.comparison import Run, joined, shares
from targets.devices.base import Timing

INT8 = (Kernel("conv", "i8", ()),)


@given(st.integers(1, 40), st.integers(1, 8), st.integers(50, 5000))
def test_launches_share_the_rounds_evenly(rounds: int, launches: int, samples: int) -> None:
    parts = shares(Timing(samples=samples, rounds=rounds, launches=launches, max_s=30.0))
    assert len(parts) == min(rounds, launches)
    counts = [part.rounds for part in parts]
    assert sum(counts) == rounds
    assert max(counts) - min(counts) <= 1
    assert sum(part.samples for part in parts) >= samples
    assert abs(sum(part.max_s for part in parts) - 30.0) < 1e-9
    assert len({part.seed for part in parts}) == len(parts)


def test_what_several_processes_did_is_one_run() -> None:
    a = Run(1.0, (5,), True, 7, cpu_s=1.0, memory_peak_bytes=10, kernels=INT8, blocks_ns=[(1, 2)])
    b = Run(
        2.0,
        (6,),
        False,
        9,
        cpu_s=2.0,
        memory_peak_bytes=30,
        kernels=INT8,
        blocks_ns=[(3,), (4,)],
    )
    both = joined([a, b])
    assert both.blocks_ns == [(1, 2), (3,), (4,)]
    assert both.warmup_ns == (5, 6)
    assert (both.load_s, both.memory_peak_bytes, both.cpu_s) == (1.0, 30, 3.0)
    assert not both.steady
