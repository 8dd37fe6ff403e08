"""Running moments of each class's embeddings, and the queue that gathers embeddings for them.

Shape legend:
    K: classes    D: embedding dimension    L: queue length    n: embeddings of one call
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .functional import information_amount

__all__ = ["ClassMoments", "EmbeddingQueue"]


class ClassMoments(nn.Module):
    """Count, mean and scatter of the embeddings of every class, merged as they come.

    The merge is that of parallel variance (Chan et al. 1979). It gives the covariance of eq. (7)
    and (8) exactly while storing K D^2 numbers once, not once per filling of the queue.

    Buffers:
        count: (K,) int64
        mean: (K, D) float32
        scatter: (K, D, D) float32, sum of (x - mean)(x - mean)^T
        num_nonfinite: () int64, embeddings left out for a NaN or Inf
    """

    def __init__(self, num_classes: int, embedding_dim: int):
        """
        Raises:
            ValueError: a size of zero or below.
        """
        super().__init__()
        _check_positive(num_classes=num_classes, embedding_dim=embedding_dim)
        self.num_classes, self.embedding_dim = num_classes, embedding_dim
        self.register_buffer("count", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(num_classes, embedding_dim))
        self.register_buffer("scatter", torch.zeros(num_classes, embedding_dim, embedding_dim))
        self.register_buffer("num_nonfinite", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, embeddings: Tensor, classes: Tensor) -> None:
        """Adds embeddings (n, D) of classes (n,) in [0, K].

        Those of class K, the background, are passed over; those with a NaN or Inf are left out and
        counted. Synchronises with the device: meant for a full queue, not for every step.

        Raises:
            ValueError: embeddings of another width or number, classes out of range.
        """
        _check_embeddings(embeddings, classes, self.embedding_dim)
        if len(classes) == 0:
            return
        low, high = classes.min().item(), classes.max().item()
        if low < 0 or high > self.num_classes:
            raise ValueError(
                f"classes must be from 0 to {self.num_classes} (the background), but are from "
                f"{low} to {high}."
            )
        inside = classes < self.num_classes
        embeddings, classes = embeddings[inside].float(), classes[inside]
        finite = embeddings.isfinite().all(dim=1)
        self.num_nonfinite += (~finite).sum()
        embeddings, classes = embeddings[finite], classes[finite]

        order = classes.argsort(stable=True)
        present, sizes = classes[order].unique_consecutive(return_counts=True)
        for k, x in zip(present.tolist(), embeddings[order].split(sizes.tolist()), strict=True):
            mean = x.mean(dim=0)
            # In float64, because float32 products may be allowed to be TF32 or bfloat16
            centred = (x - mean).double()
            # One class after another, so that the order of the sums, and with it the result, is
            # fixed.
            self._merge(k, len(x), mean, (centred.T @ centred).float())

    def _merge(self, k: int, n: int | Tensor, mean: Tensor, scatter: Tensor) -> None:
        total = self.count[k] + n
        delta = mean - self.mean[k]
        share = n / total
        self.scatter[k] += scatter + (self.count[k] * share) * torch.outer(delta, delta)
        self.mean[k] += share * delta
        self.count[k] = total

    @torch.no_grad()
    def merge_(self, other: "ClassMoments") -> "ClassMoments":
        """Adds the embeddings that `other`, of the same K and D, has seen."""
        total = self.count + other.count
        share = other.count / total.clamp(min=1)  # (K,)
        delta = other.mean - self.mean
        self.scatter += other.scatter
        self._add_spread(self.count * share, delta)
        self.mean += share[:, None] * delta
        self.count.copy_(total)
        self.num_nonfinite += other.num_nonfinite
        return self

    @torch.no_grad()
    def all_reduce_(self) -> "ClassMoments":
        """Gives every process the moments over all of them; does nothing for a single one."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return self
        local_count, local_mean = self.count.clone(), self.mean.clone()
        dist.all_reduce(self.count)
        dist.all_reduce(self.num_nonfinite)
        # The mean in float64: the sums of n * mean are large where the spread about it may be
        # small.
        total = local_count[:, None] * local_mean.double()
        dist.all_reduce(total)
        self.mean.copy_(total / self.count.clamp(min=1)[:, None])
        self._add_spread(local_count, local_mean - self.mean)
        dist.all_reduce(self.scatter)
        return self

    def _add_spread(self, weight: Tensor, delta: Tensor) -> None:
        """Adds weight delta delta^T to each scatter, (K,), (K, D), with no memory of that size."""
        weighted = weight[:, None] * delta
        self.scatter.addcmul_(weighted[:, :, None], delta[:, None, :])

    def covariance(self) -> Tensor:
        """(K, D, D), normalised by the count (eq. 8); zero for a class without embeddings."""
        return self.scatter / self.count.clamp(min=1)[:, None, None]

    @torch.no_grad()
    def information_amount(self, *, shrinkage: str = "none", max_bytes: int = 32 * 2**20) -> Tensor:
        """(K,) bits, of :func:`igam_d2.functional.information_amount`.

        As many classes at once as keep their covariances within `max_bytes`; working memory is
        three times that, for `ledoit_peche` 15 times.
        """
        step = max(1, max_bytes // (self.embedding_dim**2 * self.scatter.element_size()))
        bits = [
            information_amount(
                scatter / count.clamp(min=1)[:, None, None], count, shrinkage=shrinkage
            )
            for scatter, count in zip(self.scatter.split(step), self.count.split(step), strict=True)
        ]
        return torch.cat(bits)

    def reset_(self) -> "ClassMoments":
        """Forgets everything."""
        for buffer in self.buffers():
            buffer.zero_()
        return self


class EmbeddingQueue(nn.Module):
    """Gathers embeddings with their classes until there are enough for one update of the moments.

    The cursor lives on the host, so that filling the queue never synchronises with the device. The
    queue is flushed before a checkpoint and never saved: its length may change between runs.
    """

    def __init__(self, length: int, embedding_dim: int):
        """
        Raises:
            ValueError: a size of zero or below.
        """
        super().__init__()
        _check_positive(length=length, embedding_dim=embedding_dim)
        self.length, self.embedding_dim = length, embedding_dim
        self.cursor = 0
        self.register_buffer("embeddings", torch.zeros(length, embedding_dim), persistent=False)
        self.register_buffer("classes", torch.zeros(length, dtype=torch.int64), persistent=False)

    @property
    def is_full(self) -> bool:
        return self.cursor == self.length

    @torch.no_grad()
    def enqueue(self, embeddings: Tensor, classes: Tensor) -> int:
        """Takes the first of the embeddings (n, D) of classes (n,), as many as there is room for.

        Half precision is widened to float32. Returns how many were taken: the caller flushes the
        full queue and offers the rest again.

        Raises:
            ValueError: embeddings of another width or number.
        """
        _check_embeddings(embeddings, classes, self.embedding_dim)
        taken = min(len(classes), self.length - self.cursor)
        end = self.cursor + taken
        self.embeddings[self.cursor : end] = embeddings[:taken]
        self.classes[self.cursor : end] = classes[:taken]
        self.cursor = end
        return taken

    def flush_(self, moments: ClassMoments) -> None:
        """Moves everything that is in the queue into the moments."""
        moments.update(self.embeddings[: self.cursor], self.classes[: self.cursor])
        self.cursor = 0


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be positive, not {size}.")


def _check_embeddings(embeddings: Tensor, classes: Tensor, embedding_dim: int) -> None:
    if embeddings.shape != (*classes.shape, embedding_dim) or classes.dim() != 1:
        raise ValueError(
            f"embeddings must be ({len(classes)}, {embedding_dim}) for {len(classes)} classes, not "
            f"{tuple(embeddings.shape)}."
        )
