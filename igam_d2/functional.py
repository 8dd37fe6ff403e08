"""The equations of the method, as pure functions. Equation and section numbers are those of the
paper, "Pursuing Better Decision Boundaries for Long-Tailed Object Detection via Category
Information Amount".

Shape legend:
    K: foreground classes; the background is class K
    R: RoIs of a batch
    D: embedding dimension
    N: instances of the training set
NaN as information or potential of a class means "not measured yet": the class takes no part in the
normalisation, and every margin with it on either side is zero.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SHRINKAGES = ("none", "floor", "oas")
READINGS = ("paper", "mean_sqrt", "mean", "ratio")

__all__ = [
    "READINGS",
    "SHRINKAGES",
    "igam_loss",
    "information_amount",
    "margin_logits",
    "margin_potentials",
    "normalize_information",
    "optimal_queue_length",
    "pairwise_margins",
    "storage_ratio",
]


# --- information amount (section 3.1) -------------------------------------------------------------


def information_amount(
    covariance: Tensor, num_samples: Tensor | None = None, *, shrinkage: str = "none"
) -> Tensor:
    """Information amount of eq. (2), I = 1/2 log2 det(1 + S), of each covariance matrix.

    Args:
        covariance: (..., D, D), symmetric, normalised by n. Half precision is computed in float32.
        num_samples: (...,), the n that each matrix was estimated from; "floor" and "oas" need it.
        shrinkage: the estimate that stands for S.
            "none": S itself (section 3.3).
            "floor": eigenvalues not below (1 - sqrt(D / n))^2 (eq. 1, Listing 1). The floor is that
            of unit-variance data whatever the data's scale, so that for n < D it measures n.
            "oas": oracle approximating shrinkage towards a multiple of the identity, of the
            unbiased S n / (n - 1) with n - 1 degrees of freedom (Chen et al. 2010, eq. 23).

    Returns:
        (...,) bits. A matrix with a NaN or Inf gives NaN; n = 0 counts as n = 1.

    Raises:
        ValueError: unknown shrinkage, or one that needs `num_samples` without them.
    """
    if shrinkage not in SHRINKAGES:
        raise ValueError(f"shrinkage must be one of {', '.join(SHRINKAGES)}, not {shrinkage!r}.")
    if shrinkage != "none" and num_samples is None:
        raise ValueError(f"shrinkage {shrinkage!r} needs num_samples.")
    if covariance.dtype not in (torch.float32, torch.float64):
        covariance = covariance.float()
    if shrinkage == "none":
        return _half_log2_det(covariance)

    dim = covariance.shape[-1]
    n = num_samples.to(covariance).clamp(min=1)
    if shrinkage == "floor":
        floor = (1 - (dim / n).sqrt()).square()
        eigenvalues = _eigenvalues(covariance)
        return 0.5 * torch.log2(1 + torch.maximum(eigenvalues, floor[..., None])).sum(-1)

    freedom = (n - 1).clamp(min=1)
    covariance = covariance * (n / freedom)[..., None, None]
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    squares = covariance.square().sum((-2, -1))  # tr(S^2), S being symmetric
    spread = (freedom + 1 - 2 / dim) * (squares - trace.square() / dim)
    rho = ((1 - 2 / dim) * squares + trace.square()) / spread
    # spread = 0 is a multiple of the identity, which shrinking leaves as it is.
    rho = torch.where(spread > 0, rho, torch.ones_like(rho)).clamp(max=1)
    identity = torch.eye(dim, dtype=covariance.dtype, device=covariance.device)
    target = (rho * trace / dim)[..., None, None] * identity
    return _half_log2_det((1 - rho)[..., None, None] * covariance + target)


def _half_log2_det(covariance: Tensor) -> Tensor:
    """(..., D, D) -> (...,): 1/2 log2 det(1 + S) of positive semi-definite S, NaN if not finite."""
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    factor, failed = torch.linalg.cholesky_ex(covariance + identity)
    bits = factor.diagonal(dim1=-2, dim2=-1).log2().sum(-1)
    # Rounding can make 1 + S indefinite where S spans many orders of magnitude.
    again = failed != 0
    if again.any():
        bits = bits.clone()
        bits[again] = 0.5 * torch.log2(1 + _eigenvalues(covariance[again])).sum(-1)
    return bits


def _eigenvalues(covariance: Tensor) -> Tensor:
    """(..., D, D) -> (..., D): eigenvalues of semi-definite matrices, NaN if not finite."""
    finite = covariance.isfinite().all(-1).all(-1)[..., None]
    values = torch.linalg.eigvalsh(
        covariance.where(finite[..., None], torch.zeros_like(covariance))
    )
    return values.clamp(min=0).where(finite, torch.full_like(values, math.nan))


# --- margins (section 3.2) ------------------------------------------------------------------------


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


def _angle_terms(
    cosine: Tensor, gt_classes: Tensor, potentials: Tensor, sign: float
) -> tuple[Tensor, Tensor, Tensor]:
    """cos(m), sign * sin(m), and where theta + sign * m leaves [0, pi]: (R, K + 1) each.

    m is m_yj. No transcendental per element: cos and sin of u_i - u_j follow from those of the u.
    """
    # The background is the class that has no margin with any other: NaN, as one never measured.
    u = F.pad(potentials.to(cosine.dtype), (0, 1), value=math.nan)  # (K + 1,)
    cos_u, sin_u, row = u.cos(), u.sin(), u[gt_classes]
    relaxed = row[:, None] > u  # false wherever either is NaN, and for j = y
    cos_m = cos_u[gt_classes, None] * cos_u + sin_u[gt_classes, None] * sin_u
    sin_m = sin_u[gt_classes, None] * cos_u - cos_u[gt_classes, None] * sin_u
    cos_m = cos_m.where(relaxed, torch.ones_like(cos_m))
    sin_m = sin_m.where(relaxed, torch.zeros_like(sin_m))
    # A margin above pi, which "ratio" can give, reaches the end of the range from every angle.
    outside = relaxed & ((sign * cosine.detach() < -cos_m) | (row[:, None] - u >= math.pi))
    return cos_m, sign * sin_m, outside


def _margin_cosine(cosine: Tensor, terms: tuple[Tensor, Tensor, Tensor], sign: float) -> Tensor:
    """cos(theta + sign * m), held within [0, pi], from cos(theta) and :func:`_angle_terms`."""
    cos_m, sin_m, outside = terms
    sine = (1 - cosine.square()).clamp(min=0).sqrt()
    return (cosine * cos_m - sine * sin_m).masked_fill(outside, -sign)


def _margin_slope(cosine: Tensor, terms: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Derivative of :func:`_margin_cosine` by the cosine: sin(theta + sign * m) / sin(theta)."""
    cos_m, sin_m, outside = terms
    # It is unbounded at theta = 0: eps keeps it finite.
    sine = (1 - cosine.square()).clamp(min=torch.finfo(cosine.dtype).eps).sqrt()
    return (cos_m + cosine / sine * sin_m).masked_fill(outside, 0)


class _MarginCosine(torch.autograd.Function):
    """:func:`_margin_cosine`; saves nothing but its inputs."""

    @staticmethod
    def forward(ctx, cosine, gt_classes, potentials, sign):
        ctx.save_for_backward(cosine, gt_classes, potentials)
        ctx.sign = sign
        return _margin_cosine(cosine, _angle_terms(cosine, gt_classes, potentials, sign), sign)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        cosine, gt_classes, potentials = ctx.saved_tensors
        terms = _angle_terms(cosine, gt_classes, potentials, ctx.sign)
        return grad * _margin_slope(cosine, terms), None, None, None


class _IGAMLoss(torch.autograd.Function):
    """Mean cross-entropy of the logits of eq. (6); saves one number per row beside its inputs."""

    @staticmethod
    def forward(ctx, cosine, gt_classes, potentials, scale, sign):
        terms = _angle_terms(cosine, gt_classes, potentials, sign)
        logits = scale * _margin_cosine(cosine, terms, sign)
        log_sum = logits.logsumexp(dim=1)  # (R,)
        ctx.save_for_backward(cosine, gt_classes, potentials, log_sum)
        ctx.scale, ctx.sign = scale, sign
        target = logits.gather(1, gt_classes[:, None]).squeeze(1)
        return (log_sum - target).sum() / max(len(gt_classes), 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        cosine, gt_classes, potentials, log_sum = ctx.saved_tensors
        terms = _angle_terms(cosine, gt_classes, potentials, ctx.sign)
        logits = ctx.scale * _margin_cosine(cosine, terms, ctx.sign)
        residual = (logits - log_sum[:, None]).exp_()  # softmax, less one for the true class
        residual.scatter_add_(1, gt_classes[:, None], residual.new_full((len(residual), 1), -1))
        factor = grad * ctx.scale / max(len(gt_classes), 1)
        return factor * residual * _margin_slope(cosine, terms), None, None, None, None


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
    """
    _check_columns(cosine, potentials)
    return scale * _MarginCosine.apply(cosine, gt_classes, potentials, sign)


def igam_loss(
    cosine: Tensor, gt_classes: Tensor, potentials: Tensor, *, scale: float, sign: float = 1.0
) -> Tensor:
    """IGAM loss of eq. (6): mean cross-entropy of :func:`margin_logits`, zero for an empty batch.

    Fused: the logits are computed again for the gradient instead of being kept. Arguments as there;
    returns a scalar.
    """
    _check_columns(cosine, potentials)
    return _IGAMLoss.apply(cosine, gt_classes, potentials, scale, sign)


def _check_columns(cosine: Tensor, potentials: Tensor) -> None:
    if cosine.shape[-1] != len(potentials) + 1:
        raise ValueError(
            f"cosine has {cosine.shape[-1]} columns, but {len(potentials)} potentials and the "
            f"background make {len(potentials) + 1}."
        )


# --- storage (section 3.3.2, Listing 2) -----------------------------------------------------------


def storage_ratio(
    queue_length: int, num_instances: int, embedding_dim: int, num_classes: int
) -> float:
    """Storage of the paper's queue and local covariances over that of all embeddings, eq. (10).

    R = (d + K (floor(N / d) + 1) D) / N, as Listing 2 computes it (the printed formula carries a
    stray factor). `d` is `queue_length`.
    """
    fillings = num_instances // queue_length + 1
    return (queue_length + num_classes * fillings * embedding_dim) / num_instances


def optimal_queue_length(num_instances: int, embedding_dim: int, num_classes: int) -> int:
    """Queue length of least :func:`storage_ratio` among Listing 2's 100 lengths from 1,000 to N."""
    # Listing 2 divides by the length before rounding it, so its grid is kept as real numbers.
    lengths = torch.linspace(1000, num_instances, 100, dtype=torch.float64)
    fillings = (num_instances / lengths).floor() + 1
    return int(lengths[(lengths + num_classes * fillings * embedding_dim).argmin()])
