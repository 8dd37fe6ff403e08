"""Evaluators of data sets in LVIS's, COCO's and Pascal VOC's format."""

from .build import build_evaluator, information_of
from .coco import COCOEvaluator
from .evaluator import ClassEvaluator
from .lvis import LVISEvaluator
from .voc import PascalVOCEvaluator

__all__ = [
    "COCOEvaluator",
    "ClassEvaluator",
    "LVISEvaluator",
    "PascalVOCEvaluator",
    "build_evaluator",
    "information_of",
]
