"""The model as it came: built, its weights loaded, exported in float."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.core import Policy, Stage
from pipeline.progress import Progress
from pipeline.references import DataSpec, ModelSpec
from pipeline.store import Artifact


@dataclass(frozen=True)
class Source(Stage):
    """Takes no options: the recipe's `model` and `data` say everything."""

    after: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript")

    on_regression: ClassVar[Policy | None] = None  # it has nothing to go back to

    model: ModelSpec
    data: DataSpec

    def run(self, inputs: Mapping[str, Artifact], out: Path, progress: Progress) -> None:
        """Write the model's folder."""
        from pipeline import checkpoint

        with progress.bar("load and export the model", 1) as bar:
            model = checkpoint.source_model(self.model)
            checkpoint.save(out, model, [], self.data, {})
            bar.advance()
