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

from .information import SHRINKAGES, information_amount
from .margins import (
    READINGS,
    igam_loss,
    margin_logits,
    margin_potentials,
    normalize_information,
    pairwise_margins,
)
from .storage import optimal_queue_length, storage_ratio

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
