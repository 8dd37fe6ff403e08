"""Margins from information amounts, and the loss with them (section 3.2)."""

import math
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = [
    "READINGS",
    "igam_loss",
    "margin_logits",
    "margin_potentials",
    "normalize_information",
    "pairwise_margins",
]

READINGS = ("paper", "mean_sqrt", "mean", "ratio")

# Elements that the CPU works on at a time, so that the half dozen matrices of them stay in cache
_CHUNK = 160_000


def normalize_information(information: Tensor, *, reading: str = "paper") -> Tensor:
    """Normalised information I' of section 3.2, under one of the readings of its formula.

    Args:
        information: (K,) bits, NaN where not measured.
        reading: what Ibar is in softmax(I / (Ibar sqrt(K))) K + 1.
            "paper": the sum, as printed (the margins then vanish as K grows);
            "mean_sqrt": the mean; "mean": the mean, without sqrt(K);
            "ratio": no softmax at all, I' = max(I, mean / 1000).

    Returns:
        (K,), positive, NaN where `information` is NaN; K counts the classes that were measured.

    Raises:
        ValueError: unknown reading.
    """
    if reading not in READINGS:
        raise ValueError(f"reading must be one of {', '.join(READINGS)}, not {reading!r}.")
    measured = ~information.isnan()
    num_measured = measured.sum().clamp(min=1)
    known = information.where(measured, torch.zeros_like(information))
    total = known.sum().clamp(min=1e-12)  # all classes at 0 bits: no margins, no division by zero
    mean = total / num_measured
    if reading == "ratio":
        return torch.maximum(information, 1e-3 * mean)
    unit = {
        "paper": total * num_measured.sqrt(),
        "mean_sqrt": mean * num_measured.sqrt(),
        "mean": mean,
    }[reading]
    exponent = (information / unit).where(measured, torch.full_like(information, -math.inf))
    normalized = torch.softmax(exponent, dim=0) * num_measured + 1
    return normalized.where(measured, torch.full_like(information, math.nan))


def margin_potentials(normalized: Tensor) -> Tensor:
    """u = log(I') / pi, (K,) -> (K,) radians: the margin of section 3.2 is relu(u_i - u_j)."""
    return normalized.log() / math.pi


def pairwise_margins(potentials: Tensor) -> Tensor:
    """All margins m_ij in radians, (K,) -> (K, K). For plots and tests, not for training."""
    return (potentials[:, None] - potentials[None, :]).nan_to_num(nan=0.0).clamp(min=0)


class _HalfAngles:
    """u, cos(u / 2) and sin(u / 2) of each class, (K + 1,), the latter 0 for one without margins.

    m_yj = u_y - u_j has sin(m / 2) and cos(m / 2) by the angle-difference identities, so that no
    element of (R, K + 1) costs a transcendental. Half of m, because the sign of sin(m / 2) is that
    of m as far as the potentials of two classes can lie apart.
    """

    def __init__(self, potentials: Tensor, dtype: torch.dtype):
        # The background is the class that has no margin with any other, as one never measured.
        self.u = F.pad(potentials.to(dtype), (0, 1), value=math.nan)
        half = self.u.double() / 2  # K numbers: the digits cost nothing
        self.cos = half.cos().nan_to_num_(0.0).to(dtype)
        self.sin = half.sin().nan_to_num_(0.0).to(dtype)
        # Potentials of a full pi or more apart, which only "ratio" can give, need more work. On a
        # GPU to ask is to wait, so that it is always done.
        known = self.u.nan_to_num(0.0)
        self.wide = known.device.type != "cpu" or bool(known.max() - known.min() >= math.pi)

    def __call__(self, gt_classes: Tensor) -> tuple[Tensor, Tensor]:
        """sin(m_yj / 2), cos(m_yj / 2), (R, K + 1) each; the former 0 where there is no margin."""
        cos, sin = self.cos[gt_classes, None], self.sin[gt_classes, None]
        sin_m = (sin * self.cos).addcmul_(cos, self.sin, value=-1).clamp_(min=0)
        cos_m = (cos * self.cos).addcmul_(sin, self.sin)
        if self.wide:
            margin = self.u[gt_classes, None] - self.u
            beyond = margin >= math.pi  # reaches the end of the range from every angle
            sin_m.masked_fill_(~(margin > 0), 0).masked_fill_(beyond, 1)
            cos_m.masked_fill_(beyond, 0)
        return sin_m, cos_m


def _add_margin(
    cosine: Tensor, gt_classes: Tensor, angles: _HalfAngles, sign: float
) -> tuple[Tensor, Tensor]:
    """cos(theta + sign m), the angle held within [0, pi], and half of what its slope lacks of 1.

    With h, k = sin(m / 2), cos(m / 2) and the sine S of theta,
        cos(theta +- m)              = cos(theta) - 2 h (h cos(theta) +- k S)
        sin(theta +- m) / sin(theta) = 1 - 2 h (h -+ k cos(theta) / S),
    the latter being the derivative of the former by cos(theta), negative where the angle has left
    the range. It is unbounded at theta = 0 and pi: S is not let below sqrt(eps), which is its value
    at the floating-point number next to 1.
    """
    h, k = angles(gt_classes)
    # (1 - c)(1 + c) is exact to the last digits where 1 - c^2 is not
    sine = (1 - cosine).mul_(1 + cosine).clamp_(min=torch.finfo(cosine.dtype).eps).sqrt_()
    lack = torch.div(cosine, sine).mul_(k)
    lack = torch.sub(h, lack, alpha=sign, out=lack).mul_(h)
    shift = sine.mul_(k).addcmul_(h, cosine, value=sign)
    shifted = torch.addcmul(cosine, h, shift, value=-2 * sign)
    # Rare: on the CPU worth a look, on a GPU to look is to wait.
    if lack.numel() and (lack.device.type != "cpu" or lack.amax() > 0.5):
        shifted.masked_fill_(lack > 0.5, -sign)
        lack.clamp_(max=0.5)
    return shifted, lack


class _MarginCosine(torch.autograd.Function):
    """:func:`_add_margin`; saves nothing but its inputs."""

    @staticmethod
    def forward(ctx, cosine, gt_classes, potentials, sign):
        ctx.save_for_backward(cosine, gt_classes, potentials)
        ctx.sign = sign
        angles = _HalfAngles(potentials, cosine.dtype)
        return _add_margin(cosine, gt_classes, angles, sign)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        cosine, gt_classes, potentials = ctx.saved_tensors
        angles = _HalfAngles(potentials, cosine.dtype)
        _, lack = _add_margin(cosine, gt_classes, angles, ctx.sign)
        return torch.addcmul(grad, grad, lack, value=-2), None, None, None


class _IGAMLoss(torch.autograd.Function):
    """Mean cross-entropy of the logits of eq. (6). Computes the gradient with the loss, and saves
    that alone: as much as the cosines take.
    """

    @staticmethod
    def forward(ctx, cosine, gt_classes, potentials, scale, sign):
        angles = _HalfAngles(potentials, cosine.dtype)
        loss_sum = _loss_on_cpu if cosine.device.type == "cpu" else _loss_at_once
        loss, grad = loss_sum(cosine, gt_classes, angles, scale, sign)
        ctx.save_for_backward(grad)
        num_rows = max(len(gt_classes), 1)
        ctx.factor = scale / num_rows
        return loss / num_rows

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (cosine_grad,) = ctx.saved_tensors
        return cosine_grad * (grad * ctx.factor), None, None, None, None


def _loss_at_once(
    cosine: Tensor, gt_classes: Tensor, angles: _HalfAngles, scale: float, sign: float
) -> tuple[Tensor, Tensor]:
    """Summed loss, and its gradient by the cosines over the scale, (R, K + 1)."""
    shifted, lack = _add_margin(cosine, gt_classes, angles, sign)
    target = gt_classes[:, None]
    log_probs = torch.log_softmax(shifted.mul_(scale), dim=1)
    loss = -log_probs.gather(1, target).sum()
    grad = log_probs.exp_()
    grad.addcmul_(grad, lack, value=-2)
    return loss, grad.scatter_add_(1, target, grad.new_full(target.shape, -1))  # m_yy is 0


def _loss_on_cpu(
    cosine: Tensor, gt_classes: Tensor, angles: _HalfAngles, scale: float, sign: float
) -> tuple[Tensor, Tensor]:
    """:func:`_loss_at_once` in rows that stay in the cache, with no work on background rows."""
    grad = torch.empty_like(cosine)
    target = gt_classes[:, None]
    for foreground, rows in _runs((~angles.u[gt_classes].isnan()).tolist(), cosine.shape[1]):
        if foreground:
            shifted, lack = _add_margin(cosine[rows], gt_classes[rows], angles, sign)
            probs = torch.softmax(shifted.mul_(scale), dim=1)
            torch.addcmul(probs, probs, lack, value=-2, out=grad[rows])
        else:
            torch.softmax(cosine[rows] * scale, dim=1, out=grad[rows])
    probs = grad.gather(1, target)
    # The logarithm of a probability close to underflow (which takes a scale above 40) has lost its
    # digits: these few rows once more.
    faint = (probs < 1e-30).squeeze(1).nonzero().squeeze(1)
    loss = -probs.log_().index_fill_(0, faint, 0).sum()
    if len(faint):
        loss = loss + _loss_at_once(cosine[faint], gt_classes[faint], angles, scale, sign)[0]
    return loss, grad.scatter_add_(1, target, grad.new_full(target.shape, -1))


def _runs(foreground: list[bool], num_columns: int) -> list[tuple[bool, slice]]:
    """Successive rows of one kind, in slices of up to :data:`_CHUNK` elements.

    The rows of an image come sorted, those of the foreground first. Where they are mixed so well
    that runs would be too short to be worth it, all of a slice count as foreground.
    """
    longest = max(1, _CHUNK // num_columns)
    runs, start = [], 0
    for kind, group in groupby(foreground):
        runs.append((kind, start, start := start + sum(1 for _ in group)))
    if len(runs) > 2 + len(foreground) // 16:
        runs = [(True, 0, len(foreground))]
    slices = []
    for kind, start, end in runs:
        step = math.ceil((end - start) / math.ceil((end - start) / longest))
        slices += [(kind, slice(i, min(i + step, end))) for i in range(start, end, step)]
    return slices


def margin_logits(
    cosine: Tensor, gt_classes: Tensor, potentials: Tensor, *, scale: float, sign: float = 1.0
) -> Tensor:
    """Logits of the IGAM loss, eq. (6): s cos(theta_j + m_yj) for j != y, s cos(theta_y) for y.

    The angle is held at pi, so that a logit never rises with its angle. Rows and column of the
    background have no margin. Differentiable once, with respect to `cosine`.

    Args:
        cosine: (R, K + 1) in [-1, 1], the last column the background; float32 or float64.
        gt_classes: (R,) int64 in [0, K].
        potentials: (K,) radians, of :func:`margin_potentials`; NaN for a class without margins.
        scale: s, positive.
        sign: 1 as printed; -1 for theta_j - m_yj (held at 0), which asks more of the class with
            more information instead of relaxing it.

    Returns:
        (R, K + 1)

    Raises:
        ValueError: labels or columns that do not fit; on a GPU labels out of range are an error of
            the device instead.
    """
    _check(cosine, gt_classes, potentials)
    return scale * _MarginCosine.apply(cosine, gt_classes, potentials, sign)


def igam_loss(
    cosine: Tensor, gt_classes: Tensor, potentials: Tensor, *, scale: float, sign: float = 1.0
) -> Tensor:
    """IGAM loss of eq. (6): mean cross-entropy of :func:`margin_logits`, zero for an empty batch.

    Fused: keeps its gradient, as large as `cosine`, and nothing else. Arguments as there; returns a
    scalar. On the CPU it is quickest if the rows of the foreground lie together.
    """
    _check(cosine, gt_classes, potentials)
    return _IGAMLoss.apply(cosine, gt_classes, potentials, scale, sign)


def _check(cosine: Tensor, gt_classes: Tensor, potentials: Tensor) -> None:
    k = len(potentials)
    if cosine.shape[-1] != k + 1:
        raise ValueError(
            f"cosine has {cosine.shape[-1]} columns, but {k} potentials and the background make "
            f"{k + 1}."
        )
    if len(gt_classes) != len(cosine):
        raise ValueError(
            f"{len(gt_classes)} labels were given for {len(cosine)} rows of cosine: one each is "
            "needed."
        )
    # On a GPU to look is to wait, and an index out of range stops the run anyway.
    if gt_classes.device.type == "cpu" and len(gt_classes):
        low, high = gt_classes.aminmax()
        if low < 0 or high > k:
            raise ValueError(
                f"gt_classes must be from 0 to {k} (the background), but are from {low} to {high}."
            )
