"""Embeddings of a few classes, and what estimates give of random subsets of them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from estimator_bias import estimates
from torch import Tensor

from igam_d2.functional import SHRINKAGES

__all__ = ["SIZES", "KeptEmbeddings", "subsample"]

SIZES = (2, 3, 5, 10, 20, 50, 100, 200, 300, 500, 1000, 2000, 5000, 10000)
MOST_KEPT = 20000  # embeddings of a class


class KeptEmbeddings:
    """Keeps the finite embeddings of some classes as they pass by, the first ones of each."""

    def __init__(self, classes: Iterable[int]):
        self._classes = tuple(classes)
        self._parts: dict[str, dict[int, list[Tensor]]] = {}

    def __call__(self, predictor: str, embeddings: Tensor, classes: Tensor) -> None:
        of = self._parts.setdefault(predictor, {k: [] for k in self._classes})
        for k, parts in of.items():
            mine = embeddings[classes == k].float().cpu()
            mine = mine[mine.isfinite().all(dim=1)]
            room = MOST_KEPT - sum(map(len, parts))
            if len(mine) and room:
                parts.append(mine[:room])

    def of(self, predictor: str) -> list[tuple[int, Tensor]]:
        """(class, (n, D) float64) of those that have at least four."""
        found = self._parts.get(predictor, {}).items()
        joined = [(k, torch.cat(parts).double()) for k, parts in found if parts]
        return [(k, x) for k, x in joined if len(x) >= 4]


def subsample(x: Tensor, sizes: Sequence[int], draws: int, seed: int) -> dict[str, Any]:
    """Every estimate from random subsets of embeddings (N, D) of a class, and from all.

    Args:
        sizes: of the subsets; those beyond N / 2 are left out, as they have most in common.

    Returns:
        `n`: N; `sizes`; `estimates`: of each `full`, and over the draws `mean` and `std` (S,) bits.
    """
    sizes = [size for size in sizes if 2 * size <= len(x)]
    rng = np.random.default_rng(seed)
    full = _estimates_of([x])
    found: dict = {key: {"full": float(full[key][0]), "mean": [], "std": []} for key in SHRINKAGES}
    for size in sizes:
        subsets = [x[torch.from_numpy(rng.permutation(len(x))[:size])] for _ in range(draws)]
        for key, bits in _estimates_of(subsets).items():
            found[key]["mean"].append(float(bits.mean()))
            found[key]["std"].append(float(bits.std(ddof=1)))
    return {"n": len(x), "sizes": sizes, "estimates": found}


def _estimates_of(samples: list[Tensor]) -> dict[str, np.ndarray]:
    """Estimates (M,) of samples (n, D), as many at a time as take little memory."""
    at_once = max(1, 2**21 // samples[0].shape[1] ** 2)
    parts = []
    for start in range(0, len(samples), at_once):
        some = samples[start : start + at_once]
        centred = [x - x.mean(dim=0) for x in some]
        covariances = torch.stack([x.T @ x / len(x) for x in centred])
        parts.append(estimates(covariances, torch.tensor([len(x) for x in some])))
    return {key: np.concatenate([part[key] for part in parts]) for key in SHRINKAGES}
