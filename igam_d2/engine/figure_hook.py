"""The hook that shows in TensorBoard what the model detects while it trains."""

import copy
import logging

import numpy as np
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.engine import HookBase
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n
from detectron2.utils.visualizer import Visualizer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..data import UnreadableImageError
from .random_state import random_state, set_random_state

__all__ = ["DetectionFigureHook"]

READABLE_SIDE = 400  # pixels of the shorter side


class DetectionFigureHook(HookBase):
    """Every `period` iterations, the same few test images with ground truth and detections.

    They go to EventStorage as ``detections/<data set>/<number>``, ground truth on the left. Only
    the main process runs the model. Drawing leaves no trace in the training.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset_name: str,
        mapper: DatasetMapper,
        *,
        period: int,
        num_images: int = 4,
        score_threshold: float = 0.3,
    ):
        """
        Args:
            model: as it trains, wrapped or not.
            dataset_name: a registered data set; its images with the most classes are shown, of
                those with no more than a dozen objects.
            mapper: of inference.
            period: iterations between two figures.
            num_images: how many images.
            score_threshold: detections with a lower score are not drawn.
        """
        self._model = model.module if isinstance(model, DistributedDataParallel) else model
        self._name, self._metadata = dataset_name, MetadataCatalog.get(dataset_name)
        self._mapper, self._period = mapper, period
        self._num_images, self._score_threshold = num_images, score_threshold
        self._records: list[dict] | None = None

    def after_step(self):
        if (self.trainer.iter + 1) % self._period or not comm.is_main_process():
            return
        if self._records is None:  # of a whole data set, these alone are kept
            self._records = choose_records(DatasetCatalog.get(self._name), self._num_images)
        device = next(self._model.parameters()).device
        state = random_state(device)  # the Visualizer draws its colours from numpy's
        with inference_context(self._model), torch.no_grad():
            for number, record in enumerate(self._records):
                try:
                    picture = torch.from_numpy(self._draw(record))
                except (OSError, UnreadableImageError) as error:
                    log_first_n(logging.WARNING, f"No figure of its detections: {error}", n=4)
                    continue
                name = f"detections/{self._name}/{number}"
                self.trainer.storage.put_image(name, picture.permute(2, 0, 1))
        set_random_state(state, device)

    def _draw(self, record: dict) -> np.ndarray:
        """(H, 2 W, 3) uint8, RGB; small images are enlarged, for the labels."""
        output = self._model([self._mapper(copy.deepcopy(record))])[0]["instances"].to("cpu")
        image = read_image(record["file_name"], format="RGB")
        shown = output[output.scores >= self._score_threshold]
        scale = max(1.0, READABLE_SIDE / min(image.shape[:2]))
        left = Visualizer(image, self._metadata, scale).draw_dataset_dict(record)
        right = Visualizer(image, self._metadata, scale).draw_instance_predictions(shown)
        return np.concatenate([left.get_image(), right.get_image()], axis=1)


def choose_records(records: list[dict], number: int, most_objects: int = 12) -> list[dict]:
    """Those with the most classes; first of those that can be read, with few enough objects."""

    def worth(record: dict) -> tuple[bool, int]:
        annotations = record.get("annotations", ())
        classes = {annotation["category_id"] for annotation in annotations}
        return len(annotations) <= most_objects, len(classes)

    return sorted(records, key=worth, reverse=True)[:number]
