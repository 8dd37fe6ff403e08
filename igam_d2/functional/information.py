"""Information amount of a class from the covariance of its embeddings (section 3.1)."""

import math

import torch
from torch import Tensor

__all__ = ["SHRINKAGES", "information_amount"]

SHRINKAGES = ("none", "floor", "oas")


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
