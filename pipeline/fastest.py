"""Measured placement of any ONNX model, for the verb quantize."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from calibration.measured import Floats, Judge
from pipeline.bench import Bench, Network, Spot, bench
from pipeline.devices import Place
from pipeline.errors import UserError
from pipeline.judging import Floor, any_batch
from pipeline.placing import RANKED, Limits, Wanted, race_timing, search, told
from pipeline.report.schema import MeasuredPlacement
from pipeline.store import Store

if TYPE_CHECKING:
    from pipeline.quantizing import Calibrated, Job, Source


def where(job: "Job") -> Place:
    """Where placements are timed. Raises UserError where nothing can be."""
    method = job.settings.method
    if method != "static":
        raise UserError(f"--placement measured places int8; --method {method} has nothing to place")
    if job.place is None or job.place.why_not:
        why_not = job.place.why_not if job.place else f"no device for target {job.target.name()}"
        raise UserError(
            f"--placement measured is timed on the device, and nothing can be timed here ({why_not});"
            " run it where that can be, or leave the option out"
        )
    return job.place


def fastest(
    job: "Job", source: "Source", ready: "Calibrated", floor: Floor | None, asked: Mapping[str, str]
) -> MeasuredPlacement:
    """Time placements on the device; return what was found. `asked` are ops in float in any case, and by whom."""
    place = where(job)
    network = Network(ready.model, ready.ranges, ready.weights, asked)
    spot = Spot(job.target, place.device, place.fingerprint.digest, race_timing(job.timing))
    store, calls = Store(job.settings.store.resolve()), source.seen.part(0, RANKED)
    with bench(network, spot, store, next(iter(source.judged))) as timed:
        wanted = Wanted(_judge(job, source, floor, timed), floor.least) if floor else Wanted()
        found = search(timed, wanted, calls, Limits(races=job.settings.races), job.progress)
        return told(found, wanted, timed.every)


def _judge(job: "Job", source: "Source", floor: Floor, timed: Bench) -> Judge:
    def judge(floats: Floats) -> float:
        with job.target.open(timed.built(floats)) as runner:
            return floor.metric(any_batch(runner, source.inputs))

    return judge
