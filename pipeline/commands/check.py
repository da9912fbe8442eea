"""edgesmith check."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands import _baselines as options
from pipeline.commands._options import device, progress, telling

if TYPE_CHECKING:
    from pipeline.gate.checking import Case, Terms
    from pipeline.gate.runs import Run
    from pipeline.gate.schema import Check


@click.command("check")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--baseline", required=True, metavar="NAME[@VERSION]", help="As `baseline save` called it.")
@options.baselines
@device
@click.option("--tolerance", "tolerances", multiple=True, metavar="METRIC=VALUE", help="E.g. p50=3%; off: not judged.")
@click.option("--max-s", type=click.FloatRange(min=1), help="Time limit of measuring both anew.")
@click.option("--remeasure", is_flag=True, help="Measure the baseline's artifact and RUN's anew, in any case.")
@click.option("--stored", is_flag=True, help="Compare the stored samples only, whatever they tell.")
@click.option("--allow-fingerprint-change", is_flag=True, help="Measure both anew where RUN came from another machine.")
@click.option("--history/--no-history", default=True, show_default=True, help="Add RUN to the baseline's history.")
@click.option("--junit", type=options.file, help="Write JUnit XML.")
@click.option("--json", "as_json", type=options.file, help="Write edgesmith.check/1 with every sample.")
def command(run: Path, baseline: str, baselines: Path, **given: Any) -> int:
    """Judge RUN, a folder that deploy wrote, against a baseline: latency, size, memory, accuracy, int8.

    Exit code 0: no regression; 1: a regression beyond the tolerances of the recipe's section `gate`, and
    statistically significant; 2: something to mend in the command; 3: the data cannot tell.

    Where the stored samples are in doubt and this machine can run both artifacts, they are measured anew,
    interleaved. In a GitHub workflow it also writes annotations and the step's summary.

    \b
    edgesmith baseline save artifacts/fashion_resnet20/cpu --name main
    edgesmith check artifacts/fashion_resnet20/cpu --baseline main --junit check.xml
    """
    from pipeline.gate import history
    from pipeline.gate.baselines import Baselines
    from pipeline.gate.checking import check
    from pipeline.gate.runs import load

    if given["remeasure"] and given["stored"]:
        raise click.UsageError("--remeasure and --stored exclude each other")
    if given["stored"] and given["allow_fingerprint_change"]:
        raise click.UsageError("--stored measures nothing: --allow-fingerprint-change measures both anew")
    for path in (given["junit"], given["as_json"]):
        if path and not path.parent.is_dir():  # said now, not after a minute of measuring
            raise click.UsageError(f"{path}: there is no folder {path.parent}")
    loaded, store = load(run), Baselines(baselines)
    terms = _terms(loaded, given)
    found, past = check(_case(loaded, store, baseline, given["device"]), terms, progress())
    _write(found, given["junit"], given["as_json"])  # first: a history that cannot be written loses nothing
    if given["history"]:
        history.append(store, found.baseline, past)
    return found.exit_code


def _case(run: "Run", store: Any, baseline: str, spec: str | None) -> "Case":
    from pipeline.devices import as_measured
    from pipeline.gate import history
    from pipeline.gate.checking import Case
    from pipeline.now import now

    name, version = options.name_and_version(baseline)
    found = store.load(name, version)
    where = as_measured(run.manifest.target(), spec, run.manifest.board(), telling())
    return Case(run, found, where, history.read(store, name), now())


def _terms(run: "Run", given: dict[str, Any]) -> "Terms":
    from pipeline.gate.checking import How, Terms
    from pipeline.gate.tolerances import overridden

    gate = overridden(run.gate(), given["tolerances"])
    if given["max_s"] is not None:
        gate = gate.model_copy(update={"max_s": given["max_s"]})
    how: How = "remeasure" if given["remeasure"] else "stored" if given["stored"] else "auto"
    return Terms(gate, how, given["allow_fingerprint_change"])


def _write(found: "Check", junit_file: Path | None, json_file: Path | None) -> None:
    import os

    from rich.console import Console

    from pipeline.gate.github import annotations
    from pipeline.gate.junit import junit
    from pipeline.report.checked import markdown, show

    show(found, Console())
    if junit_file:
        junit_file.write_text(junit(found), encoding="utf-8")
    if json_file:
        json_file.write_text(found.model_dump_json(by_alias=True, indent=1) + "\n", encoding="utf-8")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in annotations(found):
            click.echo(line)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(markdown(found))
