"""Random networks: a frozen description of small parts, drawn by hypothesis, and the module that it stands for."""

from dataclasses import dataclass

import random_blocks as blocks
import random_tokens as tokens
import torch
from hypothesis import strategies as st
from random_blocks import Block, Spot
from torch import Tensor, nn

SIDES = (4, 2, 2)  # of inputs with one, two and three spatial dimensions: LENGTH places in the first two
WORDS = 7


def named(module: object) -> dict[str, type[Block]]:
    kinds = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Block) and v is not Block]
    return {kind.__name__: kind for kind in kinds}


OVER_SPACE, OVER_TOKENS = named(blocks), named(tokens)
ONLY_2D = frozenset({"Pixels"})


@dataclass(frozen=True)
class Step:
    """One block; see `Spot`."""

    kind: str
    width: int
    variant: int


@dataclass(frozen=True)
class Net:
    """A network: convolutional with `space` dimensions, then over tokens; with 0 of them it reads words."""

    space: int
    steps: tuple[Step, ...]
    tail: tuple[Step, ...]
    head: str  # "mean" or "flatten" and a layer, "stored": a view before it, "dense": for every place, "tied": words

    def build(self) -> "Built":
        return Built(self)

    @property
    def inputs(self) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        if not self.space:
            return torch.randint(0, WORDS, (2, tokens.LENGTH), generator=generator)
        return torch.randn(2, 3, *(SIDES[self.space - 1],) * self.space, generator=generator)


class Built(nn.Module):
    """The module of a description."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.over_tokens = bool(net.tail) or not net.space
        stem = Spot(3, 8, 0, net.space)
        self.stem = blocks.conv(stem, 3, 8) if net.space else nn.Embedding(WORDS, 8)
        layers, channels = [], 8
        for step in net.steps:
            layers.append(OVER_SPACE[step.kind](Spot(channels, step.width, step.variant, net.space)))
            channels = layers[-1].out
        self.steps = nn.Sequential(*layers)
        layers = []
        for step in net.tail:
            layers.append(OVER_TOKENS[step.kind](Spot(channels, step.width, step.variant)))
            channels = layers[-1].out
        self.tail = nn.Sequential(*layers)
        places = tokens.LENGTH if self.over_tokens else SIDES[net.space - 1] ** net.space
        self.how, self.features = net.head, channels * (places if net.head in ("flatten", "stored") else 1)
        if net.head == "tied":
            self.last = nn.Linear(channels, 8)
            self.head = nn.Linear(8, WORDS, bias=False)
            self.head.weight = self.stem.weight
        else:
            self.head = nn.Linear(self.features, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.steps(self.stem(x))
        if self.over_tokens:
            x = self.tail(x if x.ndim == 3 and isinstance(self.stem, nn.Embedding) else x.flatten(2).transpose(1, 2))
        if self.how == "mean":
            return self.head(x.mean(1) if self.over_tokens else x.flatten(2).mean(2))
        if self.how == "flatten":
            return self.head(x.flatten(1))
        if self.how == "stored":
            return self.head(x.reshape(-1, self.features))
        if self.how == "tied":
            return self.head(self.last(x))
        return self.head(x if self.over_tokens else x.movedim(1, -1))

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (*self.steps, *self.tail)  # type: ignore[arg-type]


def steps(kinds: dict[str, type[Block]], without: frozenset[str] = frozenset()) -> st.SearchStrategy[Step]:
    names = [name for name in kinds if name not in without]
    return st.builds(Step, st.sampled_from(names), st.sampled_from([4, 8, 12, 16]), st.integers(0, 3))


def nets(space: int, longest: int = 4) -> st.SearchStrategy[Net]:
    """Networks over `space` dimensions, of at most `longest` blocks before the tokens and two less after."""
    without = frozenset() if space == 2 else ONLY_2D
    before = st.lists(steps(OVER_SPACE, without), max_size=longest if space else 0)
    after = st.lists(steps(OVER_TOKENS), max_size=longest - 2 if 0 < space < 3 else longest * (space == 0))
    heads = st.sampled_from(["mean", "flatten", "stored", "dense", *([] if space else ["tied"])])
    return st.builds(Net, st.just(space), before.map(tuple), after.map(tuple), heads)


PLANS = st.fixed_dictionaries(
    {
        "ratio": st.sampled_from([0.25, 0.5, 0.8]),
        "criterion": st.sampled_from(["l1", "l2"]),
        "scope": st.sampled_from(["local", "global", "isomorphic"]),
        "target": st.sampled_from(["ratio", "macs", "params", "bytes"]),
        "granularity": st.sampled_from([("filter", "stage", "head"), ("filter", "stage"), ("stage", "head")]),
        "round_to": st.sampled_from([1, 2, 4]),
        "min_width": st.sampled_from([1, 3]),
    }
)
