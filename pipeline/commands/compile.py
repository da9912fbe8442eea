"""edgesmith compile."""

from pathlib import Path

import click

from pipeline.commands import _options as options


@click.command("compile")
@click.argument("model", type=click.Path(path_type=Path))
@options.target
@options.device
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="An empty folder.")
def command(model: Path, target: str, device: str | None, out: Path) -> None:
    """Build MODEL, an .onnx file in float or with Q/DQ pairs, for a target."""
    from pipeline.report.table import size
    from pipeline.standalone import compile_model

    made = options.made(target)
    compile_model(model, made, options.place(made, device), out)
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        click.echo(f"{path}  {size(path.stat().st_size)}")
