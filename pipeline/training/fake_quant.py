"""Int8 arithmetic imitated in float, with gradients: the very rounding of QuantizeLinear and DequantizeLinear.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR
2018; gradients of ranges: Esser et al., "Learned Step Size Quantization", ICLR 2020.
"""

import numpy as np
import torch
from torch import Tensor, nn

from calibration.qparams import LEAST_SCALE, LIMIT
from calibration.scheme import Scheme

_LEAST = float(LEAST_SCALE)


class FakeQuant(nn.Module):
    """Rounds a tensor to the integers of a scheme's activations, over a range, and back to float.

    The range is trained where `learned` is set. Scale and zero point follow from it as they do when pairs are
    placed (`calibration.qparams.activation_params`): it is widened to hold zero, and symmetric ones take the
    larger side.
    """

    def __init__(self, low: float, high: float, scheme: Scheme, learned: bool) -> None:
        super().__init__()
        self.scheme = scheme
        limits = np.iinfo(scheme.activation)
        self.least, self.most = int(limits.min), int(limits.max)
        # in float64, as ranges are: float32 would round to another scale than the placed one now and then
        ends = (torch.tensor(v, dtype=torch.float64) for v in (low, high))
        self.low, self.high = (nn.Parameter(v, requires_grad=learned) for v in ends)

    def extra_repr(self) -> str:
        """Name the settings."""
        return f"{self.scheme.activation}, symmetric={self.scheme.symmetric}, learned={self.low.requires_grad}"

    def forward(self, x: Tensor) -> Tensor:
        """Return the values that the integers stand for, in the shape of `x`."""
        scale, zero = self.steps()
        integers = torch.clamp(rounded(x / scale) + zero, self.least, self.most)
        return (integers - zero) * scale

    def steps(self) -> tuple[Tensor, Tensor]:
        """Return scale and zero point, float32 scalars."""
        low, high = self.low.clamp(max=0), self.high.clamp(min=0)
        middle = self.most // 2 + 1 if self.least == 0 else 0
        above, steps = self.most - middle, self.most - self.least
        even = torch.maximum(-low / (above + 1), high / above)
        zero: Tensor | None = low.new_tensor(middle)
        if self.scheme.symmetric:
            span = torch.maximum(-low, high) / above
        elif self.scheme.centred > 1 and low < 0 < high and even * steps <= self.scheme.centred * (high - low):
            span = even
        else:
            span, zero = (high - low) / steps, None
        scale = span.float()
        scale = torch.where(scale < _LEAST, torch.ones_like(scale), scale)
        if zero is None:
            zero = torch.clamp(rounded(self.least - low / scale.double()), self.least, self.most)
        return scale, zero.float()


def quantized_weight(weight: Tensor, scale: Tensor, axis: int | None, limit: int = LIMIT) -> Tensor:
    """Return a weight rounded to int8 in -limit…limit times `scale`, `(channels,)` along `axis` or a scalar."""
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)] if scale.ndim else [1] * weight.ndim
    step = scale.reshape(shape)
    return torch.clamp(rounded(weight / step), -limit, limit) * step


def rounded(x: Tensor) -> Tensor:
    """Round, ties to even; the gradient passes as if nothing had happened."""
    return x + (torch.round(x) - x).detach()


def weight_steps(weight: Tensor, axis: int | None, limit: int = LIMIT) -> Tensor:
    """Return the scale of a weight's int8, as `calibration.qparams.weight_scale` does."""
    others = [i for i in range(weight.ndim) if i != axis]
    scale = weight.detach().abs().amax(others) / limit
    usable = scale >= _LEAST
    spare = scale.max() if bool(usable.any()) else torch.ones_like(scale.max())
    return torch.where(usable, scale, spare)
