"""Information amount of a class from the covariance of its embeddings (section 3.1)."""

import math

import torch
from torch import Tensor

__all__ = ["SHRINKAGES", "information_amount"]

SHRINKAGES = ("none", "floor", "oas", "ledoit_peche")


def information_amount(
    covariance: Tensor, num_samples: Tensor | None = None, *, shrinkage: str = "none"
) -> Tensor:
    """Information amount of eq. (2), I = 1/2 log2 det(1 + S), of each covariance matrix.

    Args:
        covariance: (..., D, D), symmetric, normalised by n. Half precision is computed in float32.
        num_samples: (...,), the n that each matrix was estimated from; all but "none" need it.
        shrinkage: the estimate that stands for S.
            "none": S itself (section 3.3).
            "floor": eigenvalues not below (1 - sqrt(D / n))^2 (eq. 1, Listing 1). The floor is that
            of unit-variance data whatever the data's scale, so that for n < D it measures n.
            "oas": oracle approximating shrinkage towards a multiple of the identity, of the
            unbiased S n / (n - 1) with n - 1 degrees of freedom (Chen et al. 2010, eq. 23).
            "ledoit_peche": each eigenvalue shrunk on its own, by the analytical formula of Ledoit
            and Wolf (2020, section 4.7 and appendix C) for the oracle of Ledoit and Peche (2011),
            of the unbiased covariance. Its theory excludes n = D. Below 13 samples, where its
            kernel is not defined, "oas" stands in.

    Returns:
        (...,) bits. A matrix with a NaN or Inf gives NaN; n = 0 counts as n = 1.

    Raises:
        ValueError: unknown shrinkage, one that needs `num_samples` without them, matrices that are
            not square, or another number of them than of `num_samples`.
    """
    if shrinkage not in SHRINKAGES:
        raise ValueError(f"shrinkage must be one of {', '.join(SHRINKAGES)}, not {shrinkage!r}.")
    if shrinkage != "none" and num_samples is None:
        raise ValueError(f"shrinkage {shrinkage!r} needs num_samples.")
    if covariance.dim() < 2 or covariance.shape[-1] != covariance.shape[-2]:
        raise ValueError(f"covariance must be (..., D, D), not {tuple(covariance.shape)}.")
    if num_samples is not None and num_samples.shape != covariance.shape[:-2]:
        raise ValueError(
            f"num_samples must be {tuple(covariance.shape[:-2])}, one for each matrix, not "
            f"{tuple(num_samples.shape)}."
        )
    if covariance.dtype not in (torch.float32, torch.float64):
        covariance = covariance.float()
    if shrinkage == "none":
        return _half_log2_det(covariance.clone())

    n = num_samples.to(covariance).clamp(min=1)
    if shrinkage == "floor":
        floor = (1 - (covariance.shape[-1] / n).sqrt()).square()
        return _bits(torch.maximum(_eigenvalues(covariance), floor[..., None]))

    freedom = (n - 1).clamp(min=1)
    unbiased = covariance * (n / freedom)[..., None, None]
    if shrinkage == "oas":
        return _half_log2_det(_oas_(unbiased, freedom))
    eigenvalues = _eigenvalues(unbiased)
    # In float64, as the sums of the Hilbert transform cancel
    shrunk = _bits(_ledoit_peche(eigenvalues.double(), freedom.double())).to(unbiased)
    return torch.where(freedom >= 12, shrunk, _half_log2_det(_oas_(unbiased, freedom)))


def _oas_(covariance: Tensor, freedom: Tensor) -> Tensor:
    """(..., D, D), (...,) -> (..., D, D): oracle approximating shrinkage, in place."""
    dim = covariance.shape[-1]
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    trace = diagonal.sum(-1)
    squares = torch.linalg.vector_norm(covariance, dim=(-2, -1)).square()  # tr(S^2)
    spread = (freedom + 1 - 2 / dim) * (squares - trace.square() / dim)
    rho = ((1 - 2 / dim) * squares + trace.square()) / spread
    # spread = 0 is a multiple of the identity, which shrinking leaves as it is.
    rho = torch.where(spread > 0, rho, torch.ones_like(rho)).clamp(max=1)
    covariance.mul_((1 - rho)[..., None, None])
    diagonal.add_((rho * trace / dim)[..., None])
    return covariance


def _ledoit_peche(eigenvalues: Tensor, freedom: Tensor) -> Tensor:
    """(..., D) in ascending order, (...,) -> (..., D): analytical nonlinear shrinkage.

    Equation numbers are those of Ledoit and Wolf, "Analytical nonlinear shrinkage of
    large-dimensional covariance matrices", Annals of Statistics 48(5), 2020; n there is `freedom`
    here, which is how they treat data whose mean was removed.
    """
    dim = eigenvalues.shape[-1]
    # Repeated observations can leave eigenvalues of zero within the rank, where the formula
    # divides by them; their own scale does not matter.
    tiny = torch.finfo(eigenvalues.dtype).eps * eigenvalues[..., -1:]
    values = torch.maximum(eigenvalues, tiny)
    c = (dim / freedom)[..., None]
    h = freedom.pow(-1 / 3)[..., None]  # (4.9)
    null = (dim - freedom).clamp(min=0)[..., None]  # eigenvalues that are zero for want of samples
    within = torch.arange(dim, device=values.device) >= null  # (..., D)
    rank = (dim - null).clamp(min=1)

    width = h * values  # bandwidth of each kernel, proportional to its place
    x = (values[..., :, None] - values[..., None, :]) / width[..., None, :]
    weight = within[..., None, :] / width[..., None, :] / rank[..., None]
    root = math.sqrt(5)
    parabola = 1 - x.square() / 5
    density = (0.75 / root * parabola.clamp(min=0) * weight).sum(-1)  # (4.7)
    logarithm = ((root - x) / (root + x)).abs().log()
    logarithm = logarithm.where(logarithm.isfinite(), 0)  # its factor is zero there
    hilbert = -0.3 / math.pi * x + 0.75 / root / math.pi * parabola * logarithm
    # Far from a kernel these terms cancel; the first ones of their series, by the kernel's moments
    far = 1 / x.where(x.abs() > 100, math.inf).square()
    series = -(1 + far * (1 + far * (15 / 7 + far * (125 / 21)))) / (math.pi * x)
    hilbert = torch.where(x.abs() > 100, series, hilbert)
    hilbert = (hilbert * weight).sum(-1)  # (4.8)

    full = (math.pi * c * values * density).square()
    full = values / (full + (1 - c - math.pi * c * values * hilbert).square())  # (4.3)

    deficient = 1 / (math.pi**2 * values * (density.square() + hilbert.square()))  # (C.4)
    inverse_mean = (within / values).sum(-1, keepdim=True) / rank
    h = h.clamp(max=0.44)  # below 1 / sqrt(5), also where the result is not used
    at_zero = 0.75 / root / h * (1 - 0.2 / h.square())
    at_zero = at_zero * ((1 + root * h) / (1 - root * h)).log() + 0.3 / h.square()
    at_zero = at_zero * inverse_mean / math.pi  # (C.8)
    of_null = freedom[..., None] / (math.pi * null.clamp(min=1) * at_zero)  # (C.5)
    deficient = torch.where(within, deficient, of_null)
    shrunk = torch.where(null > 0, deficient, full)
    return torch.where(eigenvalues[..., -1:] > 0, shrunk, eigenvalues)  # a class without spread


def _bits(eigenvalues: Tensor) -> Tensor:
    return 0.5 * eigenvalues.log1p().sum(-1) / math.log(2)


def _half_log2_det(covariance: Tensor) -> Tensor:
    """(..., D, D) -> (...,): 1/2 log2 det(1 + S) of positive semi-definite S, NaN if not finite.

    Overwrites `covariance` with 1 + S.
    """
    covariance.diagonal(dim1=-2, dim2=-1).add_(1)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    bits = factor.diagonal(dim1=-2, dim2=-1).log2().sum(-1)
    # Rounding can make 1 + S indefinite where S spans many orders of magnitude.
    again = failed != 0
    if again.any():
        bits[again] = 0.5 * _eigenvalues(covariance[again]).clamp(min=1).log2().sum(-1)
    return bits


def _eigenvalues(covariance: Tensor) -> Tensor:
    """(..., D, D) -> (..., D): eigenvalues of semi-definite matrices, NaN if not finite."""
    finite = covariance.isfinite().all(-1).all(-1)[..., None]
    values = torch.linalg.eigvalsh(covariance.where(finite[..., None], 0))
    return values.clamp(min=0).where(finite, math.nan)
