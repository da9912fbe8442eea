"""What a criterion may look at: the weights, and the network at work on samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from pipeline.errors import UserError
from pipeline.progress import SILENT, Progress
from pipeline.pruning.groups import Group
from pipeline.pruning.interpret import GraphRunner
from pipeline.pruning.network import Network, network_on
from pipeline.pruning.samples import Samples, needed
from pipeline.pruning.settings import Settings
from pipeline.pruning.surgery import tensors
from pipeline.pruning.taps import Tap
from pipeline.pruning.verify import seeded

Look = Callable[[Tensor], None]  # gets the value that a tap is on; `Tap.units` picks the group's part of it


@dataclass(frozen=True)
class Evidence:
    """A model, captured, and samples to watch it on. Criteria change none of it."""

    model: nn.Module
    network: Network
    samples: Samples | None = None
    settings: Settings = field(default_factory=Settings)
    progress: Progress = SILENT
    seed: int = 0
    learned: Mapping[str, Tensor] = field(default_factory=dict)  # what `Criterion.learn` found, for its `rank`

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """Parameters and buffers by name."""
        return tensors(self.model)

    @property
    def seen(self) -> Samples:
        """The samples. Raises UserError where there are none."""
        return needed(self.samples, self.settings.criterion)

    @cached_property
    def watched(self) -> Network:
        """The network captured on a batch of the samples: the same groups, on a graph of that batch's shape."""
        found = network_on(self.model, self.seen.example, self.settings)
        if [(g.name, g.units) for g in found.structure.groups] != [
            (g.name, g.units) for g in self.network.structure.groups
        ]:
            raise UserError("samples: the network is another one on their shape than on the example inputs")
        return found

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that the settings let go."""
        return self.network.structure.of_kinds(self.settings.granularity)

    def observe(self, looks: Sequence[tuple[Tap, Look]], what: str) -> None:
        """Run every batch of the samples through the watched graph, once, and let taps look at their values.

        Memory holds what the graph itself needs at a time, and what the looks keep. `what` names the progress bar.
        """
        runner = _Watcher(self.watched, self.tensors, looks)
        with self.progress.bar(what, len(self.seen.batches)) as bar:
            for inputs, _ in self.seen.batches:
                with seeded(self.model):
                    runner.outputs(pytree.tree_leaves(inputs))
                bar.advance()

    def twin(self, group: Group) -> Group:
        """Return the same group on the watched graph."""
        return next(g for g in self.watched.structure.groups if g.name == group.name)


class _Watcher(GraphRunner):
    """Runs a graph, and shows its values to the taps on them."""

    def __init__(self, network: Network, state: Mapping[str, Tensor], looks: Sequence[tuple[Tap, Look]]) -> None:
        super().__init__(network.captured, state)
        self._looks: dict[fx.Node, list[tuple[Tap, Look]]] = {}
        for tap, look in looks:
            self._looks.setdefault(tap.at, []).append((tap, look))

    def run_node(self, n: fx.Node) -> Any:
        """Run one op. What a layer reads is looked at before it runs, what an op gives after."""
        looks = self._looks.get(n, ())
        for tap, look in looks:
            if tap.node is not n:
                look(self.env[tap.node])
        result = super().run_node(n)
        for tap, look in looks:
            if tap.node is n:
                look(result)
        return result
