"""A small network with every kind of coupling, once as users write it and once with a gate on every unit."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.pruning.evidence import Evidence
from pipeline.pruning.network import network_of
from pipeline.pruning.samples import Samples
from pipeline.pruning.settings import Settings
from pipeline.pruning.trace import capture
from tests.pruning_nets import lively

Gates = dict[str, Tensor]


class Net(nn.Module):
    """A residual stage of 6 channels, two branches of 4 and 5 that are concatenated, and a flatten into a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 7, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(7)
        self.outer = nn.Conv2d(7, 6, 1)
        self.left = nn.Conv2d(6, 4, 1)
        self.right = nn.Conv2d(6, 5, 3, padding=1)
        self.head = nn.Linear(9 * 4, 5)

    def forward(self, x: Tensor, gates: Gates | None = None) -> Tensor:
        g = {name: torch.ones(n, dtype=x.dtype) for name, n in SIZES.items()} if gates is None else gates
        x = F.relu(self.stem(x))
        inner = F.relu(self.norm(self.inner(x * g["stem"].view(1, -1, 1, 1))))
        x = F.relu(x + self.outer(inner * g["inner"].view(1, -1, 1, 1)))
        gated = x * g["stem"].view(1, -1, 1, 1)
        joined = torch.cat([torch.tanh(self.left(gated)), F.relu(self.right(gated))], 1)
        scale = torch.cat([g["left"], g["right"]])
        pooled = F.max_pool2d(joined, 4) * scale.view(1, -1, 1, 1)
        return self.head(pooled.flatten(1))


class Plain(Net):
    """The same without gates, as it is captured."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        x = F.relu(self.stem(x), inplace=True)
        x = F.relu(x + self.outer(F.relu(self.norm(self.inner(x)))))
        joined = torch.cat([torch.tanh(self.left(x)), F.relu(self.right(x))], 1)
        return self.head(F.max_pool2d(joined, 4).flatten(1))


SIZES = {"stem": 6, "inner": 7, "left": 4, "right": 5}


def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain = lively(Plain()).double()
    gated = Net().double().eval()
    gated.load_state_dict(plain.state_dict())
    return plain, gated


def data(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, 3, 8, 8, generator=generator).double(), torch.randint(0, 5, (n,), generator=generator)


def evidence(model: nn.Module, n: int = 12, batch: int = 4, *, double: bool = True) -> Evidence:
    x, y = data(n)
    return seen_by(model, x if double else x.float(), y, batch)


def seen_by(model: nn.Module, x: Tensor, y: Tensor, batch: int, settings: Settings | None = None) -> Evidence:
    settings = settings or Settings()
    network = network_of(model, capture(model, (x[:2],)), (x[:2],), settings)
    return Evidence(model, network, Samples.of(x, y, batch_size=batch), settings)
