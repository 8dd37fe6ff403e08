"""What the losses share: means over RoIs, random RoIs, sums over processes."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "at_least_float32",
    "at_true_class",
    "coin_flips",
    "foreground_mean",
    "mean_cross_entropy",
    "mean_of_rows",
    "sampled_rows",
    "sum_over_processes_",
]


def mean_cross_entropy(
    logits: Tensor, gt_classes: Tensor, sample_weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy in float32, averaged with the weights; zero with zero gradients for no rows.

    Args:
        logits: (R, C)
        gt_classes: (R,) in [0, C)
        sample_weight: (R,), or None for equal ones
    """
    logits = at_least_float32(logits)
    if sample_weight is None:
        # "mean" of nothing would be NaN
        return F.cross_entropy(logits, gt_classes, reduction="sum") / max(len(gt_classes), 1)
    return mean_of_rows(F.cross_entropy(logits, gt_classes, reduction="none"), sample_weight)


def mean_of_rows(losses: Tensor, sample_weight: Tensor | None = None) -> Tensor:
    """(R,) -> the mean with the weights (R,); zero with zero gradients for no rows."""
    if sample_weight is None:
        return losses.sum() / max(len(losses), 1)
    return (losses * sample_weight).sum() / sample_weight.sum().clamp(min=1e-12)


def foreground_mean(
    losses: Tensor, gt_classes: Tensor, num_classes: int, sample_weight: Tensor | None = None
) -> Tensor:
    """(R,) -> the weighted sum over the number of foreground RoIs, or over 1 if there is none."""
    if sample_weight is not None:
        losses = losses * sample_weight
    return losses.sum() / (gt_classes < num_classes).sum().clamp(min=1)


def at_least_float32(scores: Tensor) -> Tensor:
    return scores.float() if scores.dtype.itemsize < 4 else scores


def at_true_class(values: Tensor, gt_classes: Tensor) -> Tensor:
    """(R, C) or (C,), (R,) -> (R,): each row's value of its class; of class C - 1 for one beyond.

    A sigmoid classifier has no column for the background, whose rows are to be masked out.
    """
    index = gt_classes.clamp(max=values.shape[-1] - 1)
    return values[index] if values.dim() == 1 else values.gather(1, index[:, None]).squeeze(1)


def coin_flips(columns: int, probability: Tensor) -> Tensor:
    """(R,) -> (R, columns) bool, True with the probability of the row, to 1 in 65,536."""
    # Drawing is most of the work: four draws from 64 random bits
    size = (len(probability), (columns + 3) // 4)
    bits = torch.empty(size, dtype=torch.int64, device=probability.device).random_(-(2**63), None)
    return bits.view(torch.int16)[:, :columns] < ((probability - 0.5) * 2**16)[:, None]


def sampled_rows(candidates: Tensor, number: Tensor) -> Tensor:
    """A random `number` (a scalar) of the True rows of (R,), or all; (R,) bool.

    The number is not looked at, so that nobody waits for the device.
    """
    keys = torch.rand(candidates.shape, device=candidates.device).where(candidates, 2.0)
    return candidates & (keys.argsort().argsort() < number)


def sum_over_processes_(*tensors: Tensor) -> None:
    """Sums floating-point tensors over the processes, each in place, in one collective; nothing for
    a single process.

    All of them must take part, also one whose batch is empty.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
