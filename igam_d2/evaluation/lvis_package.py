"""The reference: AP by the ``lvis`` package, which was written for numpy before 1.20."""

import contextlib
import io
from types import ModuleType

import numpy as np

from .coco_format import percent

__all__ = ["evaluate"]


class _NumpyWithFloat(ModuleType):
    """numpy, with the alias ``np.float`` that it no longer has."""

    float = float

    def __getattr__(self, name: str):
        return getattr(np, name)


@contextlib.contextmanager
def _runs_on_current_numpy():
    """Lends the package's module another `np`; numpy itself stays as it is for everybody else."""
    import lvis.eval

    original = lvis.eval.np
    lvis.eval.np = _NumpyWithFloat("numpy")
    try:
        yield
    finally:
        lvis.eval.np = original


def evaluate(
    json_file: str, records: list[dict], task: str, category_ids: list[int]
) -> tuple[dict[str, float], np.ndarray]:
    """Evaluate detections, at least one, by the LVIS rules; slow, and in much memory.

    Args:
        records: in LVIS's format of results, limited to the best of each image; they are changed.
        task: "bbox" or "segm".
        category_ids: in contiguous order.

    Returns:
        The metrics by the package's names, and the AP of every category (K,); both in %, NaN
        without ground truth.
    """
    from lvis import LVIS, LVISEval, LVISResults

    for record in records:
        # With a box there, its area and not the mask's would decide small, medium or large.
        record.pop("bbox" if task == "segm" else "segmentation", None)
    with _runs_on_current_numpy(), contextlib.redirect_stdout(io.StringIO()):
        ground_truth = LVIS(json_file)
        for category in ground_truth.cats.values():  # it asks for a group
            category.setdefault("frequency", "f")
        for annotation in ground_truth.anns.values():  # it takes an id of 0 for no match
            annotation["id"] += 1
        ground_truth.anns = {a["id"]: a for a in ground_truth.anns.values()}
        results = LVISResults(ground_truth, records, max_dets=-1)
        evaluation = LVISEval(ground_truth, results, task)
        evaluation.run()
    metrics = {name: percent(value) for name, value in evaluation.get_results().items()}
    # (T, R, K, areas): IoU thresholds, recalls, categories; -1 without ground truth
    means = evaluation.eval["precision"][:, :, :, 0].mean(axis=(0, 1))
    of_category = dict(zip(evaluation.params.cat_ids, means.tolist(), strict=True))
    return metrics, np.array([percent(of_category[i]) for i in category_ids])
