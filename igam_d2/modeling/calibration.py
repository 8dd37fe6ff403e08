"""Calibration of a trained classifier at test time, in favour of classes with few training images.

Shape legend:
    R: RoIs    K: foreground classes, the background is class K
    C: outputs of the classifier    D: embedding dimension
"""

import torch
from torch import Tensor

__all__ = ["norcal", "tau_normalized"]


def norcal(probs: Tensor, class_image_count: Tensor, gamma: float) -> Tensor:
    """Probabilities p_k / n_k^gamma, the background's as it is, normalised to the sum one.

    NorCal: Pan et al. 2021, "On Model Calibration for Long-Tailed Object Detection and Instance
    Segmentation".

    Args:
        probs: (R, K + 1), the last column that of the background.
        class_image_count: n, (K,), positive.
        gamma: 0 leaves the probabilities as they are.

    Returns:
        (R, K + 1)
    """
    foreground = probs[:, :-1] / class_image_count.to(probs.dtype).pow(gamma)
    calibrated = torch.cat([foreground, probs[:, -1:]], dim=1)
    return calibrated / calibrated.sum(dim=1, keepdim=True)


def tau_normalized(
    scores: Tensor, weight: Tensor, bias: Tensor | None, *, num_classes: int, tau: float
) -> Tensor:
    """Scores of a linear classifier with the rows w_j / ||w_j||^tau of the foreground classes.

    Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition",
    eq. (3), whose classifier has no background. In detection that keeps its row, and all keep their
    bias, as in the public code of balanced group softmax, which compares with it.

    Args:
        scores: (R, C), x W^T + b.
        weight: W, (C, D).
        bias: b, (C,), or None.
        num_classes: K, the first of the C rows.
        tau: 0 leaves the scores as they are, 1 makes the K rows equally long.

    Returns:
        (R, C), of the classifier's type, float32 also for scores under autocast.
    """
    if bias is None:
        bias = weight.new_zeros(len(weight))
    # The scores of a row of zeros are zero, whatever they are divided by
    length = weight.norm(dim=1).clamp(min=1e-12)
    length[num_classes:] = 1
    return (scores - bias) / length.pow(tau) + bias
