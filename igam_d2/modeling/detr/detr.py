"""DETR (Carion et al. 2020, "End-to-End Object Detection with Transformers"), with a classification
loss of the registry.

Shape legend:
    L: decoder layers    N: images    H, W: of the feature map    Q: object queries of an image
    R: rows, L N Q    K: foreground classes, "no object" is class K    E: hidden dimension
    D: embedding dimension
"""

import math

import torch
from detectron2.config import configurable
from detectron2.layers import move_device_like
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone, detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torchvision.ops import box_convert

from ...errors import InputError
from ...losses.reduction import at_least_float32
from ..classifier import EmbeddingClassifier
from .criterion import SetCriterion
from .matcher import HungarianMatcher, Targets
from .position import padding_mask, sine_positions
from .transformer import Transformer

__all__ = ["DETR", "QueryClassifier"]


class QueryClassifier(EmbeddingClassifier):
    """Classifies what the decoder makes of each object query."""

    @configurable
    def __init__(self, in_features: int, **kwargs):
        """
        Args:
            in_features: E.
            kwargs: as for :class:`EmbeddingClassifier`.
        """
        super().__init__()
        self._init_classifier(in_features, **kwargs)

    @classmethod
    def from_config(cls, cfg, in_features):
        return {"in_features": in_features, **cls._classifier_config(cfg, in_features)}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, E) -> scores (R, num_outputs), embeddings (R, D)."""
        embeddings = self.embedding(x)
        return self.cls_score(embeddings), embeddings

    def keep_instances(self, instances: tuple[Tensor, Tensor] | None) -> None:
        """For :meth:`take_instances`: embeddings and classes of the step's matched queries."""
        self._instances = instances


@META_ARCH_REGISTRY.register()
class DETR(nn.Module):
    """A set of detections from a fixed number of object queries, without proposals and NMS.

    In training it returns losses, else what :class:`GeneralizedRCNN` does. At test time a query may
    give several detections: the pairs of a query and a class with the highest probabilities are
    taken, where the public code takes the best class of every query. Of 100 queries, LVIS's 300
    detections an image would not come otherwise, and a rare class beside a frequent one that it
    looks like would be lost.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_feature: str,
        transformer: Transformer,
        classifier: QueryClassifier,
        criterion: SetCriterion,
        num_queries: int,
        aux_loss: bool,
        score_threshold: float,
        detections_per_image: int,
        pixel_mean: list[float],
        pixel_std: list[float],
    ):
        """
        Args:
            backbone: of the feature map `in_feature`, of any number of channels.
            in_feature: name of the map.
            transformer: over the map's cells.
            classifier: of the queries.
            criterion: matching and losses.
            num_queries: Q.
            aux_loss: losses of all decoder layers; else of the last alone.
            score_threshold: least probability of a detection.
            detections_per_image: at most.
            pixel_mean, pixel_std: per channel, of images as they come.
        """
        super().__init__()
        self.backbone, self.in_feature = backbone, in_feature
        shape, dim = backbone.output_shape()[in_feature], transformer.dim
        self.stride = shape.stride
        self.input_proj = nn.Conv2d(shape.channels, dim, kernel_size=1)
        self.transformer = transformer
        self.query_embed = nn.Embedding(num_queries, dim)
        self.classifier = classifier
        self.bbox_embed = nn.Sequential(
            *(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU()), nn.Linear(dim, 4)
        )
        self.criterion, self.aux_loss = criterion, aux_loss
        self.score_threshold = score_threshold
        self.detections_per_image = detections_per_image
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg):
        detr, backbone = cfg.MODEL.DETR, build_backbone(cfg)
        features = list(backbone.output_shape())
        if detr.IN_FEATURE not in features:
            raise InputError(
                f"MODEL.DETR.IN_FEATURE is {detr.IN_FEATURE!r}, but {cfg.MODEL.BACKBONE.NAME} has "
                f"{', '.join(features)}: name one of these, or add it to the OUT_FEATURES of the "
                "backbone."
            )
        return {
            "backbone": backbone,
            "in_feature": detr.IN_FEATURE,
            "transformer": Transformer(
                dim=detr.HIDDEN_DIM,
                num_heads=detr.NUM_HEADS,
                num_encoder_layers=detr.ENC_LAYERS,
                num_decoder_layers=detr.DEC_LAYERS,
                dim_feedforward=detr.DIM_FEEDFORWARD,
                dropout=detr.DROPOUT,
            ),
            "classifier": QueryClassifier(cfg, detr.HIDDEN_DIM),
            "criterion": SetCriterion(
                HungarianMatcher(
                    cls_cost=detr.CLS_COST, l1_cost=detr.L1_COST, giou_cost=detr.GIOU_COST
                ),
                no_object_weight=detr.NO_OBJECT_WEIGHT,
                cls_weight=detr.CLS_WEIGHT,
                l1_weight=detr.L1_WEIGHT,
                giou_weight=detr.GIOU_WEIGHT,
            ),
            "num_queries": detr.NUM_QUERIES,
            "aux_loss": detr.AUX_LOSS,
            "score_threshold": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: mapped records, as for :class:`GeneralizedRCNN`.

        Returns:
            In training `loss_cls`, `loss_bbox` and `loss_giou`; else for each image a dict with
            `instances`: `pred_boxes`, `scores`, `pred_classes`, in the image's own size.
        """
        if not self.training:
            return self.inference(batched_inputs)
        targets = Targets.of([record["instances"] for record in batched_inputs], self.device)
        queries = self.decode(self.preprocess_image(batched_inputs))
        if not self.aux_loss:
            queries = queries[-1:]
        scores, embeddings = self.classifier(queries.flatten(0, 2))
        losses, instances = self.criterion(
            self.classifier, scores, embeddings, self._boxes(queries), targets
        )
        self.classifier.keep_instances(instances)
        return losses

    @torch.no_grad()
    def inference(self, batched_inputs: list[dict], do_postprocess: bool = True) -> list:
        """Detections, or with `do_postprocess` False the :class:`Instances` in the input's size."""
        images = self.preprocess_image(batched_inputs)
        queries = self.decode(images)[-1]  # (N, Q, E)
        probs = self.classifier.calibrated_probs(*self.classifier(queries.flatten(0, 1)))
        probs = probs[:, :-1].view(*queries.shape[:2], -1)
        boxes = box_convert(self._boxes(queries), "cxcywh", "xyxy")
        number = min(self.detections_per_image, probs[0].numel())
        scores, pairs = probs.flatten(1).topk(number, dim=1)
        results = []
        for score, pair, box, (height, width) in zip(
            scores, pairs, boxes, images.image_sizes, strict=True
        ):
            kept = score > self.score_threshold
            query, classes = pair[kept] // probs.shape[2], pair[kept] % probs.shape[2]
            result = Instances((height, width))
            result.pred_boxes = Boxes(box[query])
            result.pred_boxes.scale(width, height)
            result.scores, result.pred_classes = score[kept], classes
            results.append(result)
        if not do_postprocess:
            return results
        return [
            {
                "instances": detector_postprocess(
                    result,
                    record.get("height", result.image_size[0]),
                    record.get("width", result.image_size[1]),
                )
            }
            for result, record in zip(results, batched_inputs, strict=True)
        ]

    @torch.no_grad()
    def matched_embeddings(self, batched_inputs: list[dict]) -> tuple[Tensor, Tensor]:
        """Embeddings (G, D) of the queries that the last layer's matching gives the records'
        instances, and their classes (G,), in the order of the instances; one that has none, for
        want of queries, is left out.
        """
        targets = Targets.of([record["instances"] for record in batched_inputs], self.device)
        queries = self.decode(self.preprocess_image(batched_inputs))[-1:]
        scores, embeddings = self.classifier(queries.flatten(0, 2))
        matches = self.criterion.match(
            self.classifier, scores, embeddings, self._boxes(queries), targets
        )
        rows, instances = matches.to(self.device)
        return embeddings[rows], targets.classes[instances]

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalised, and padded to one size."""
        images = [move_device_like(record["image"], self.pixel_mean) for record in batched_inputs]
        return ImageList.from_tensors(
            [(image - self.pixel_mean) / self.pixel_std for image in images],
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )

    def decode(self, images: ImageList) -> Tensor:
        """The decoder's output of every layer, (L, N, Q, E)."""
        features = self.backbone(images.tensor)[self.in_feature]
        height, width = features.shape[-2:]
        # The cells of an image do not depend on how much padding the batch adds to it
        sizes = [
            (math.ceil(height / self.stride), math.ceil(width / self.stride))
            for height, width in images.image_sizes
        ]
        place = {"height": height, "width": width, "device": features.device}
        return self.transformer(
            self.input_proj(features).flatten(2).transpose(1, 2),
            sine_positions(sizes, dim=self.transformer.dim, **place),
            padding_mask(sizes, **place),
            self.query_embed.weight,
        )

    def _boxes(self, queries: Tensor) -> Tensor:
        """(..., E) -> (..., 4): centre, width and height over the image's, in at least float32."""
        return at_least_float32(self.bbox_embed(queries)).sigmoid()
