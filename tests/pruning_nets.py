"""Networks as users write them, and a masked reference that shares no code with the engine."""

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from pipeline.pruning import Plan


class LeNet(nn.Module):
    """Convolutions, tanh, average pooling, and a flatten of channels × 5 × 5 into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 5, padding=2)
        self.conv2 = nn.Conv2d(8, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.head = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(torch.tanh(self.conv1(x)), 2)
        x = F.avg_pool2d(torch.tanh(self.conv2(x)), 2)
        x = torch.tanh(self.fc1(torch.flatten(x, 1)))
        return self.head(torch.tanh(self.fc2(x)))


class VGG(nn.Module):
    """A plain stack with batch norm, max pooling, and two linear layers with dropout."""

    def __init__(self, widths: tuple[int | str, ...] = (16, "M", 32, 32, "M", 64, "M")) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in widths:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                channels = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(nn.Linear(channels * 4, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(x))
        return self.classifier(x.view(x.size(0), -1))


def conv_bn(cin: int, cout: int, k: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(cin, cout, k, stride, k // 2, groups=groups, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = cin * expand
        self.residual = stride == 1 and cin == cout
        self.conv = nn.Sequential(
            *([conv_bn(cin, wide, 1)] if expand != 1 else []),
            conv_bn(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, cout, 1, bias=False),
            nn.BatchNorm2d(cout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Inverted residuals with depthwise convolutions; global mean and a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(3, 16, 3, 2),
            InvertedResidual(16, 8, 1, 1),
            InvertedResidual(8, 16, 2, 6),
            InvertedResidual(16, 16, 1, 6),
            InvertedResidual(16, 24, 2, 6),
            conv_bn(24, 64, 1),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class Block(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.padding = (cout - cin) // 2
        self.down = None
        if option == "B" and (stride != 1 or cin != cout):
            self.down = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.down is not None:
            x = self.down(x)
        elif self.padding:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out + x)


class ResNet(nn.Module):
    """The CIFAR ResNet of depth 6n + 2; option A pads shortcuts with zero channels, B projects them."""

    def __init__(self, n: int = 1, option: str = "A") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = [16, 16, 32, 64]
        self.stages = nn.Sequential(
            *(
                Block(widths[s] if i == 0 else widths[s + 1], widths[s + 1], 2 if s and i == 0 else 1, option)
                for s in range(3)
                for i in range(n)
            )
        )
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(F.relu(self.bn1(self.conv1(x))))
        return self.fc(F.avg_pool2d(x, x.size(3)).flatten(1))


class DenseNet(nn.Module):
    """Three layers that each read all before them, concatenated, through their own norm; then a transition."""

    def __init__(self, growth: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        widths = [16 + i * growth for i in range(4)]
        self.norms = nn.ModuleList([nn.BatchNorm2d(w) for w in widths])
        self.layers = nn.ModuleList([nn.Conv2d(w, growth, 3, padding=1, bias=False) for w in widths[:-1]])
        self.transition = nn.Conv2d(widths[-1], 24, 1, bias=False)
        self.last = nn.BatchNorm2d(24)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = torch.cat([x, layer(F.relu(norm(x)))], 1)
        x = F.avg_pool2d(self.transition(F.relu(self.norms[-1](x))), 2)
        return self.head(F.relu(self.last(x)).mean((2, 3)))


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give norms and biases values that a zeroed filter would leak: nothing is at its initial 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name in ("weight", "bias", "running_mean"):
            tensor = getattr(module, name, None)
            if tensor is not None and tensor.ndim == 1:
                tensor.data = torch.randn(tensor.shape, generator=generator) * 0.5 + 0.3
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.data = torch.rand(module.running_var.shape, generator=generator) + 0.5
    return model.eval()


def reading_only(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a copy whose dense layers see zeros where the plan cuts their input; nothing else is touched."""
    masked = copy.deepcopy(model)
    for name, module in masked.named_modules():
        kept = plan.kept.get(f"{name}.weight", {}).get(1)
        if kept is None:
            continue
        keep = torch.zeros(module.weight.shape[1])
        keep[list(kept)] = 1
        shape = (1, -1) + (1,) * (module.weight.ndim - 2)
        keep = keep.repeat(getattr(module, "groups", 1)).view(shape)
        module.register_forward_pre_hook(lambda _, args, keep=keep: (args[0] * keep,))
    return masked


# where a module's weights read channels: tensor, dimension
READS = {
    **dict.fromkeys((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding), (("weight", 1),)),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), (("weight", 0),)),
    nn.MultiheadAttention: (("in_proj_weight", 1),),
    NonDynamicallyQuantizableLinear: (("weight", 1),),
}


def masked_by_hand(model: nn.Module, plan: Plan, pruned: nn.Module) -> nn.Module:
    """Return a copy that reads zeros where the plan cuts what a layer reads; nothing that makes channels is touched.

    A norm over channels runs on those that the plan keeps of its own weight, the rest of its result is zero.
    """
    masked, kept = copy.deepcopy(model), plan.kept
    for name, module in masked.named_modules():
        for tensor, dim in READS.get(type(module), ()):
            stays = kept.get(f"{name}.{tensor}", {}).get(dim)
            if stays is not None and (dim == 1 or module.groups == 1):
                held = getattr(module, tensor).data
                gone = np.setdiff1d(np.arange(held.shape[dim]), stays)
                held.index_fill_(dim, torch.from_numpy(gone), 0)
        if isinstance(module, nn.GroupNorm | nn.LayerNorm | nn.RMSNorm) and f"{name}.weight" in kept:
            stays = torch.from_numpy(kept[f"{name}.weight"][0])
            module.register_forward_hook(over_these(stays, pruned.get_submodule(name)))
    return masked


def over_these(stays: Tensor, small: nn.Module) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
    def hook(module: nn.Module, args: tuple[Tensor], full: Tensor) -> Tensor:
        dim = 1 if isinstance(module, nn.GroupNorm) else full.ndim - 1
        return torch.zeros_like(full).index_copy(dim, stays, small(args[0].index_select(dim, stays)))

    return hook


class Windows(nn.Module):
    """Attention in windows of 16 places, its sizes, heads and batch written into the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 1)
        self.qkv = nn.Linear(32, 96)
        self.proj = nn.Linear(32, 24)
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        windows = x.view(x.size(0), 2, 4, 2, 4, 32).permute(0, 1, 3, 2, 4, 5).reshape(x.size(0) * 4, 16, 32)
        q, k, v = self.qkv(windows).view(-1, 16, 3, 4, 8).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.size(0) * 4, 16, 32)
        y = self.norm(self.proj(y)).view(x.size(0), 64, 24)
        return self.head(y.mean(1))


class Mixed(nn.Module):
    """Tokens mixed by convolutions with a kernel of one, whose space is the channels, as in gMLP."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 16)
        self.mix = nn.Conv1d(6, 8, 1)
        self.grow = nn.ConvTranspose1d(8, 10, 1)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.grow(F.relu(self.mix(F.relu(self.stem(x)))))))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet": (LeNet, (2, 1, 28, 28)),
    "vgg": (VGG, (2, 3, 32, 32)),
    "mobilenetv2": (MobileNetV2, (2, 3, 32, 32)),
    "resnet_a": (lambda: ResNet(1, "A"), (2, 3, 32, 32)),
    "densenet": (DenseNet, (2, 3, 16, 16)),
    "resnet_b": (lambda: ResNet(2, "B"), (2, 3, 32, 32)),
}


def built(name: str) -> tuple[nn.Module, Tensor]:
    """Return one of `NETS` with lively values, and an input for it."""
    torch.manual_seed(0)
    factory, shape = NETS[name]
    return lively(factory()), torch.randn(shape)


def relative(a: Tensor, b: Tensor) -> float:
    """Return the largest difference, relative to the largest of `b`."""
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()
