"""What the queue and the statistics of the paper store (section 3.3.2, Listing 2)."""

import torch

__all__ = ["optimal_queue_length", "storage_ratio"]


def storage_ratio(
    queue_length: float, num_instances: int, embedding_dim: int, num_classes: int
) -> float:
    """Storage of the paper's queue and local covariances over that of all embeddings, eq. (10).

    R = (d + K (floor(N / d) + 1) D) / N, as Listing 2 computes it (the printed formula carries a
    stray factor). `d` is `queue_length`.

    Raises:
        ValueError: an argument of zero or below.
    """
    _check_positive(
        queue_length=queue_length,
        num_instances=num_instances,
        embedding_dim=embedding_dim,
        num_classes=num_classes,
    )
    fillings = num_instances // queue_length + 1
    return (queue_length + num_classes * fillings * embedding_dim) / num_instances


def optimal_queue_length(num_instances: int, embedding_dim: int, num_classes: int) -> int:
    """Queue length of least :func:`storage_ratio` among Listing 2's 100 lengths from 1,000 to N.

    For N below 1,000 these are lengths above N, and the least is a queue that holds the data set.

    Raises:
        ValueError: an argument of zero or below.
    """

    def ratio(length: float) -> float:
        return storage_ratio(length, num_instances, embedding_dim, num_classes)

    # Listing 2 divides by the length before rounding it, so its grid is kept as real numbers.
    lengths = torch.linspace(1000, num_instances, 100, dtype=torch.float64).tolist()
    best = int(min(lengths, key=ratio))
    return min(best, best + 1, key=ratio)  # rounded down it may need one filling more


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if not size > 0:
            raise ValueError(f"{name} must be positive, not {size}.")
