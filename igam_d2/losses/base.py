"""What a classification loss declares to the head, and the registry that configs choose from."""

import inspect
import math
from typing import Any, ClassVar, Literal

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn

__all__ = [
    "CLS_LOSS_REGISTRY",
    "CONTEXT",
    "COUNTS",
    "ClsLoss",
    "EmptyClassError",
    "check_not_negative",
    "check_positive",
    "check_share",
    "checked_counts",
    "loss_defaults",
]

CLS_LOSS_REGISTRY = Registry("CLS_LOSS")
CLS_LOSS_REGISTRY.__doc__ = """
Classification losses, subclasses of :class:`ClsLoss`, chosen by
``MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME``.
"""

# What a loss may ask for by naming it in its constructor, beside its own constants. COUNTS are of
# the training annotations: (K,) int64 each, a number, and "r", "c" or "f" for each class.
COUNTS = ("class_image_count", "class_instance_count", "num_images", "class_frequency")
CONTEXT = ("num_classes", "embedding_dim", "normalization", *COUNTS)


class EmptyClassError(ValueError):
    """A loss that needs every class to have training data was given some that have none.

    Attributes:
        classes: their numbers.
    """

    def __init__(self, classes: list[int]):
        self.classes = classes
        super().__init__(f"there is nothing to train on of the classes {classes}")


class ClsLoss(nn.Module):
    """Loss of a box classifier over K foreground classes and the background, class K.

    A subclass is built from keyword arguments: what it names of :data:`CONTEXT` is given to it,
    every other one has a default, which becomes its config key. Of the training data's counts, what
    is needed at test time must be in a persistent buffer: it may be built without them then.

    Class attributes:
        classifier: "linear" scores are w.x + b; "cosine" scores are cosines in [-1, 1],
            float32 also under autocast, and the loss owns the scale.
        bias: whether a linear classifier has one.
        prior_prob: with a number, a linear classifier starts with sigmoid(bias) = prior_prob.
        sums_to_one: whether the K + 1 probabilities of a RoI do, as those of a softmax.
        second_stage: whether it trains parameters of its own over a detector that is frozen.
    """

    classifier: ClassVar[Literal["linear", "cosine"]] = "linear"
    bias: ClassVar[bool] = True
    prior_prob: ClassVar[float | None] = None
    sums_to_one: ClassVar[bool] = True
    second_stage: ClassVar[bool] = False

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes

    @classmethod
    def asks(cls, context: dict[str, Any]) -> dict[str, Any]:
        """The part of `context` (keys of :data:`CONTEXT`) that the constructor names."""
        names = inspect.signature(cls.__init__).parameters
        return {key: value for key, value in context.items() if key in names}

    @property
    def num_outputs(self) -> int:
        """Width of the classifier."""
        return self.num_classes + 1

    @property
    def updates_state(self) -> bool:
        """Whether a `forward` is a step of the training; not so for one without gradient, as those
        that batch norms are calibrated with."""
        return self.training and torch.is_grad_enabled()

    def forward(
        self,
        scores: Tensor,
        gt_classes: Tensor,
        *,
        embeddings: Tensor | None = None,
        class_weight: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Scalars that are summed into ``loss_cls``.

        A loss with state changes it where :attr:`updates_state`, to the same on all processes.
        Called with autocast disabled; `scores` and `embeddings` may be float16 or bfloat16.

        Args:
            scores: (R, num_outputs) of the classifier.
            gt_classes: (R,) in [0, K].
            embeddings: (R, D), what the classifier was given.
            class_weight: (num_outputs, D), the classifier's rows.
            sample_weight: (R,), the weight of each row in the mean; None for equal ones.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward.")

    def predict_probs(self, scores: Tensor, *, embeddings: Tensor | None = None) -> Tensor:
        """(R, num_outputs) -> (R, K + 1) probabilities, the last column that of the background."""
        raise NotImplementedError(f"{type(self).__name__} has no predict_probs.")

    @torch.no_grad()
    def set_information(self, information: Tensor) -> None:
        """Is told the information amounts (K,) in bits, NaN if not measured, at a refresh."""


def check_positive(**constants: float) -> None:
    """Raises a ValueError for the first that is not."""
    for name, value in constants.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, not {value}.")


def check_not_negative(**constants: float) -> None:
    """Raises a ValueError for the first that is, or is not finite."""
    for name, value in constants.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must not be negative or infinite: it is {value}.")


def check_share(**constants: float) -> None:
    """Raises a ValueError for the first that is not from 0 to 1."""
    for name, value in constants.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be from 0 to 1, not {value}.")


def checked_counts(counts: Tensor, num_classes: int, *, positive: bool = False) -> Tensor:
    """Counts of the classes, (K,) -> (K,) float64.

    Raises:
        ValueError: of another length.
        EmptyClassError: with `positive`, if some are zero.
    """
    counts = torch.as_tensor(counts).double()
    if counts.shape != (num_classes,):
        raise ValueError(
            f"the training data have counts of {counts.numel()} classes, and the model "
            f"{num_classes}: MODEL.ROI_HEADS.NUM_CLASSES must be the number of classes."
        )
    if positive and (counts <= 0).any():
        raise EmptyClassError((counts <= 0).nonzero().flatten().tolist())
    return counts


def loss_defaults(loss: type[ClsLoss]) -> dict[str, Any]:
    """The constants of a loss and their defaults: its arguments that are not :data:`CONTEXT`.

    Raises:
        TypeError: an argument without a default that is not in the context either.
    """
    defaults = {}
    for name, parameter in list(inspect.signature(loss.__init__).parameters.items())[1:]:
        if name in CONTEXT:
            continue
        if parameter.default is parameter.empty:
            raise TypeError(
                f"{loss.__name__}.__init__ asks for {name!r}, which is neither a constant with a "
                f"default nor one of {', '.join(CONTEXT)}."
            )
        defaults[name] = parameter.default
    return defaults
