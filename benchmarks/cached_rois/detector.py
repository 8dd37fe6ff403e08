"""A detector's second stage over cached RoIs, and its trainer.

Everything else, samplers and checkpoints, information amounts and evaluation, is the Trainer's.
"""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_roi_heads
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import Tensor, nn

from cached_rois.cache import RoICache, Split
from igam_d2.data import build_test_loader, build_train_loader, load_training_set, register_datasets
from igam_d2.engine import Trainer
from igam_d2.engine.freeze import freeze_detector, second_stage_loss

__all__ = ["CachedRoIDetector", "CachedTrainer", "cached_trainer"]


class CachedRoIDetector(nn.Module):
    """Box head and box predictor of a config's RoI heads, named as in GeneralizedRCNN: the weights
    of one fit the other.

    Takes records with "roi_features" and "proposals", in training those of the sampled RoIs and
    "instances"; what it returns is as of GeneralizedRCNN.
    """

    def __init__(self, cfg: CfgNode, shapes: dict[str, ShapeSpec]):
        """
        Args:
            shapes: of the feature maps that the RoIs were taken from.
        """
        super().__init__()
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = False
        self.roi_heads = build_roi_heads(cfg, shapes)
        self._shape = (shapes[cfg.MODEL.ROI_HEADS.IN_FEATURES[0]].channels,)
        self._shape += (cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION,) * 2
        self.to(cfg.MODEL.DEVICE)

    @property
    def device(self) -> torch.device:
        return self.roi_heads.box_predictor.bbox_pred.weight.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        proposals = self._moved(batched_inputs, "proposals")
        heads = self.roi_heads
        if self.training:
            targets = self._moved(batched_inputs, "instances")
            heads.box_predictor.match_instances(proposals, targets)
        predictions = heads.box_predictor(heads.box_head(self._features(batched_inputs)))
        if self.training:
            return heads.box_predictor.losses(predictions, proposals)
        results, _ = heads.box_predictor.inference(predictions, proposals)
        return [
            {"instances": detector_postprocess(result, record["height"], record["width"])}
            for record, result in zip(batched_inputs, results, strict=True)
        ]

    def _moved(self, batched_inputs: list[dict], key: str) -> list[Instances]:
        instances = [record[key] for record in batched_inputs]
        if self.device.type == "cpu":
            return instances
        return [image.to(self.device) for image in instances]

    def _features(self, batched_inputs: list[dict]) -> Tensor:
        """(R, C, P, P), float32."""
        parts = [record["roi_features"] for record in batched_inputs]
        features = torch.cat(parts).to(self.device).float()
        return features.view(-1, *self._shape)


class CachedMapper:
    """Adds to a record what is cached of its image, of a pass chosen at random."""

    def __init__(self, splits: Sequence[Split]):
        self._splits = splits

    def __call__(self, record: dict) -> dict:
        # Of numpy's random state, as augmentations: a checkpoint has it
        number = np.random.randint(len(self._splits)) if len(self._splits) > 1 else 0
        return record | self._splits[number][record["image_id"]]


class CachedTrainer(Trainer):
    """A :class:`Trainer` of a :class:`CachedRoIDetector`, made by :func:`cached_trainer`."""

    cache: RoICache

    @classmethod
    def build_model(cls, cfg):
        """
        Raises:
            InputError: a config that the cache does not fit.
        """
        cls.cache.check(cfg)
        register_datasets(cfg)  # the classes may have to be counted
        model = CachedRoIDetector(cfg, cls.cache.shapes)
        return model if second_stage_loss(model) is None else freeze_detector(model)

    @classmethod
    def build_train_loader(cls, cfg):
        records = load_training_set(cfg)
        cls.cache.check_images(records)
        records = [only_needed(record) for record in records]
        return build_train_loader(cfg, records, mapper=CachedMapper(cls.cache.train))

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        mapper = CachedMapper([cls.cache.test[dataset_name]])
        return build_test_loader(cfg, dataset_name, mapper=mapper)


def only_needed(record: dict) -> dict:
    """What samplers and evaluators look at; a loader unpacks the record each time."""
    kept = {key: record[key] for key in ("image_id", "height", "width")}
    annotations = [
        {key: annotation[key] for key in ("category_id", "iscrowd") if key in annotation}
        for annotation in record.get("annotations", ())
    ]
    return kept | {"annotations": annotations}


def cached_trainer(cache: RoICache) -> type[CachedTrainer]:
    """The trainer of a cache."""
    return type("CachedTrainer", (CachedTrainer,), {"cache": cache})
