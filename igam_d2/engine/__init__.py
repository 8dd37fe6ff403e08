from .checkpoint import Checkpointer
from .checkpoint_hook import CheckpointHook
from .figure_hook import DetectionFigureHook
from .information_hook import InformationAmountHook
from .launch import launch
from .trainer import Trainer

__all__ = [
    "CheckpointHook",
    "Checkpointer",
    "DetectionFigureHook",
    "InformationAmountHook",
    "Trainer",
    "launch",
]
