"""What a batch's embeddings are to each other: Park et al., "Relational Knowledge Distillation", CVPR 2019.

Widths play no part, so a student of any width is compared with its teacher directly.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def distances(x: Tensor) -> Tensor:
    """Return the Euclidean distances `(N, N)` of embeddings `(N, D)`, over the mean of those that are not zero."""
    found = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")  # the other mode loses small distances
    mean = found.sum() / (found > 0).sum().clamp_min(1)
    return found / mean.clamp_min(torch.finfo(x.dtype).tiny)


def angles(x: Tensor) -> Tensor:
    """Return the cosines `(N, N, N)` of embeddings `(N, D)`; `[i, j, k]` is of the angle at i between j and k.

    It is 0 where i coincides with j or k. Takes memory for N³ and N²·D numbers.
    """
    apart = x[None] - x[:, None]
    length = torch.linalg.vector_norm(apart, dim=2, keepdim=True)
    # Over infinity, so that coinciding samples give a zero whose gradient is zero too, not 1 / eps.
    towards = apart / length.masked_fill(length == 0, torch.inf)
    return torch.bmm(towards, towards.transpose(1, 2))


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean Huber loss between the two's `distances`; embeddings are `(N, D)`, of any two widths."""
    return F.smooth_l1_loss(distances(student), distances(teacher))


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean Huber loss between the two's `angles`; embeddings are `(N, D)`, of any two widths."""
    return F.smooth_l1_loss(angles(student), angles(teacher))
