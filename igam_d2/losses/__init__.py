from .base import CLS_LOSS_REGISTRY, ClsLoss
from .cosine_ce import CosineCELoss
from .igam import IGAMLoss
from .softmax_ce import SoftmaxCELoss

__all__ = ["CLS_LOSS_REGISTRY", "ClsLoss", "CosineCELoss", "IGAMLoss", "SoftmaxCELoss"]
