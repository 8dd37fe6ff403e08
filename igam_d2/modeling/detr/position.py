"""Where a feature map's cells are: sine embeddings, and which cells are padding.

Shape legend:
    N: images    H, W: of the feature map    E: hidden dimension
"""

import math

import torch
from torch import Tensor

__all__ = ["padding_mask", "sine_positions"]

TEMPERATURE = 10000.0


def sine_positions(
    sizes: list[tuple[int, int]], height: int, width: int, dim: int, *, device: torch.device
) -> Tensor:
    """Sines and cosines of the row (first E / 2 channels) and of the column, (N, H W, E) float32.

    Rows and columns are counted from 1 and normalised to 2 pi at the end of the image, whatever is
    added to it as padding; there they go on. Carion et al. 2020, appendix A.4, with the
    normalisation of its public code.

    Args:
        sizes: rows and columns of each image's own cells.
        height, width: H and W.
        dim: E, divisible by 4.
    """
    rows, columns = zip(*sizes, strict=True)
    rows = _encode(rows, height, dim // 2, device)[:, :, None].expand(-1, -1, width, -1)
    columns = _encode(columns, width, dim // 2, device)[:, None].expand(-1, height, -1, -1)
    return torch.cat([rows, columns], dim=3).flatten(1, 2)


def _encode(ends: tuple[int, ...], length: int, dim: int, device: torch.device) -> Tensor:
    """(N, length, dim): a sine and a cosine for each of dim / 2 wavelengths from 2 pi on."""
    places = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    # Divided by numbers of the host, which need no copy to the device
    places = torch.stack([places / (end + 1e-6) for end in ends]) * (2 * math.pi)
    exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim
    angles = places[:, :, None] / TEMPERATURE**exponents
    return torch.stack([angles.sin(), angles.cos()], dim=3).flatten(2)


def padding_mask(
    sizes: list[tuple[int, int]], height: int, width: int, *, device: torch.device
) -> Tensor | None:
    """(N, H W) bool, True for padding; None if there is none, which attention is faster with."""
    if all(size == (height, width) for size in sizes):
        return None
    mask = torch.ones(len(sizes), height, width, dtype=torch.bool, device=device)
    for image, (rows, columns) in zip(mask, sizes, strict=True):
        image[:rows, :columns] = False
    return mask.flatten(1)
