"""Reading a report back."""

from pathlib import Path

from pydantic import ValidationError

from pipeline.errors import UserError
from pipeline.report.schema import Report


def read(run: Path) -> Report:
    """Read `report.json` of a deployed folder, or that file itself. Raises UserError."""
    path = run / "report.json" if run.is_dir() else run
    if not path.is_file():
        raise UserError(f"there is no report {path}: give the folder that `edgesmith deploy` wrote")
    try:
        return Report.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "not text"
        raise UserError(f"{path} is no edgesmith.report/1: {why}") from error
