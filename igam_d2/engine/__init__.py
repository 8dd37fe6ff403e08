from .checkpoint import Checkpointer
from .information_hook import InformationAmountHook
from .trainer import Trainer

__all__ = ["Checkpointer", "InformationAmountHook", "Trainer"]
