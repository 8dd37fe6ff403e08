from .acsl import ACSLLoss
from .arcface import ArcFaceLoss
from .bags import BAGSLoss
from .balanced_softmax import BalancedSoftmaxLoss
from .base import CLS_LOSS_REGISTRY, ClsLoss
from .c2am import C2AMLoss
from .center import CenterLoss
from .cosface import CosFaceLoss
from .cosine_ce import CosineCELoss
from .disalign import DisAlignLoss
from .droploss import DropLoss
from .eql import EQLLoss
from .eqlv2 import EQLv2Loss
from .equalized_focal import EqualizedFocalLoss
from .fcbl import FCBLLoss
from .focal import FocalLoss
from .igam import IGAMLoss
from .loce import LOCELoss
from .seesaw import SeesawLoss
from .softmax_ce import SoftmaxCELoss
from .sphereface import SphereFaceLoss
from .virtual_softmax import VirtualSoftmaxLoss

__all__ = [
    "CLS_LOSS_REGISTRY",
    "ACSLLoss",
    "ArcFaceLoss",
    "BAGSLoss",
    "BalancedSoftmaxLoss",
    "C2AMLoss",
    "CenterLoss",
    "ClsLoss",
    "CosFaceLoss",
    "CosineCELoss",
    "DisAlignLoss",
    "DropLoss",
    "EQLLoss",
    "EQLv2Loss",
    "EqualizedFocalLoss",
    "FCBLLoss",
    "FocalLoss",
    "IGAMLoss",
    "LOCELoss",
    "SeesawLoss",
    "SoftmaxCELoss",
    "SphereFaceLoss",
    "VirtualSoftmaxLoss",
]
