"""Evaluators: LVIS, and Detectron2's own for other datasets."""

from .build import build_evaluator
from .lvis_evaluation import LVISEvaluator

__all__ = ["LVISEvaluator", "build_evaluator"]
