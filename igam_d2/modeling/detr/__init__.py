from .detr import DETR, QueryClassifier

__all__ = ["DETR", "QueryClassifier"]
