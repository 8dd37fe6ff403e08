"""The embeddings of a detector's ground truth against each box on its own, and their moments."""

import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data.detection_utils import build_augmentation
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads, build_model
from detectron2.structures import Boxes

from igam_d2.engine import measure
from igam_d2.engine.measure import DetectorMoments, GroundTruthEmbeddings, random_projection
from igam_d2.errors import InputError

KINDS = {
    "plain": ["MODEL.ROI_HEADS.NAME", "StandardROIHeads"],
    "igam": [],
    "cascade": [
        *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
        *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True, "MODEL.MASK_ON", True),
    ],
    "c4": [
        *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", ["res4"]),
        *("MODEL.RPN.IN_FEATURES", ["res4"], "MODEL.ROI_HEADS.IN_FEATURES", ["res4"]),
        *("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "MODEL.MASK_ON", True),
    ],
    "retinanet": [
        *("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.NUM_CLASSES", 10),
        *("MODEL.RETINANET.IN_FEATURES", ["p3", "p4", "p5"], "MODEL.RETINANET.NUM_CONVS", 1),
        *("MODEL.ANCHOR_GENERATOR.SIZES", [[12, 16], [24, 32], [48, 64]]),
        *("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 1.0]]),
    ],
}


@pytest.fixture
def detector(cfg):
    """Builds a detector of a kind, with weights that tell one box from another."""

    def build(kind: str) -> torch.nn.Module:
        cfg.merge_from_list([*KINDS[kind], "MODEL.PIXEL_STD", [60.0] * 3])
        torch.manual_seed(0)
        model = build_model(cfg)
        for name, parameter in model.named_parameters():
            if "bbox_pred" in name and "weight" in name:
                torch.nn.init.normal_(parameter, std=0.1)  # stages of a cascade move their boxes
            elif "cls_subnet" in name and "weight" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        return model

    return build


def batches(cfg, size: int = 3, number: int = 8) -> list[list[dict]]:
    mapper = DatasetMapper(
        is_train=True, augmentations=build_augmentation(cfg, False), image_format="BGR"
    )
    records = [r for r in DatasetCatalog.get("digits_lt_train") if r["annotations"]]
    records = [mapper(r) for r in records[: size * number]]
    return [records[i : i + size] for i in range(0, len(records), size)]


def embeddings_by_hand(model, batch) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Box after box, each on its own."""
    rows: dict[str, list[np.ndarray]] = {}
    classes = []
    images = model.preprocess_image(batch)
    all_features = model.backbone(images.tensor)
    for i, record in enumerate(batch):
        features = {name: x[i : i + 1] for name, x in all_features.items()}
        classes += record["instances"].gt_classes.tolist()
        for box in record["instances"].gt_boxes:
            for name, x in _of_box(model, features, Boxes(box[None]), images.image_sizes[i]):
                rows.setdefault(name, []).append(x[0].double().numpy())
    return {name: np.stack(x) for name, x in rows.items()}, np.array(classes)


def _of_box(model, features, box, image_size):
    if hasattr(model, "head"):
        yield "head", _at_anchor(model, features, box.tensor[0].double().numpy())
        return
    heads = model.roi_heads
    if not hasattr(heads, "box_head"):
        pooled = heads.res5(heads.pooler([features["res4"]], [box]))
        yield "roi_heads.box_predictor", pooled.mean(dim=(2, 3))
    elif isinstance(heads.box_head, torch.nn.ModuleList):
        for k, predictor in enumerate(heads.box_predictor):
            x = heads.box_head[k](heads.box_pooler([features["p3"]], [box]))
            yield f"roi_heads.box_predictor.{k}", x
            deltas = predictor.bbox_pred(x)
            box = Boxes(predictor.box2box_transform.apply_deltas(deltas, box.tensor))
            box.clip(image_size)
    else:
        x = heads.box_head(heads.box_pooler([features["p3"]], [box]))
        yield "roi_heads.box_predictor", getattr(heads.box_predictor, "embedding", lambda x: x)(x)


def _at_anchor(model, features, box):
    """The place whose anchor has the largest intersection over union with the box."""
    best, found = -1.0, None
    levels = [features[name] for name in model.head_in_features]
    for level, anchors in zip(levels, model.anchor_generator(levels), strict=True):
        x = model.head.cls_subnet(level)
        per_place = len(anchors) // (x.shape[2] * x.shape[3])
        for j, anchor in enumerate(anchors.tensor.double().numpy()):
            inner = np.clip(
                np.minimum(box[2:], anchor[2:]) - np.maximum(box[:2], anchor[:2]), 0, None
            )
            areas = np.prod(box[2:] - box[:2]) + np.prod(anchor[2:] - anchor[:2])
            overlap = inner.prod() / (areas - inner.prod())
            if overlap > best + 1e-6:
                row, column = divmod(j // per_place, x.shape[3])
                best, found = overlap, x[:, :, row, column]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_and_moments_are_those_of_each_box_by_hand(cfg, digits, detector, kind):
    model, data = detector(kind), batches(cfg)
    for name, module in model.named_modules():
        if name.endswith("mask_head"):
            module.register_forward_pre_hook(lambda *_: pytest.fail("a mask was computed"))
    num_stages = 3 if kind == "cascade" else 1
    measurement = DetectorMoments(model, queue_length=7)
    moments = measurement.measure(data, 24)
    assert model.training and len(moments) == num_stages

    model.eval()
    read = GroundTruthEmbeddings(model)
    rows, classes = {name: [] for name in moments}, []
    with torch.no_grad():
        for batch in data:
            expected, labels = embeddings_by_hand(model, batch)
            embeddings, of_class = read(batch)
            assert embeddings.keys() == expected.keys() == moments.keys() == read.widths.keys()
            assert of_class.tolist() == labels.tolist()
            classes += labels.tolist()
            for name, x in expected.items():
                rows[name].append(x)
                atol = 1e-5 * abs(x).max()
                np.testing.assert_allclose(embeddings[name].numpy(), x, rtol=1e-3, atol=atol)
    classes = np.array(classes)
    for name, own in moments.items():
        x = np.concatenate(rows[name])
        assert own.embedding_dim == measurement.dims[name] == x.shape[1]
        information = own.information_amount().numpy()
        assert own.count.tolist() == np.bincount(classes, minlength=10).tolist()
        for k in range(10):
            covariance = np.cov(x[classes == k].T, bias=True)
            np.testing.assert_allclose(
                own.covariance()[k], covariance, rtol=1e-3, atol=1e-4 * abs(covariance).max()
            )
            bits = np.linalg.slogdet(np.eye(len(covariance)) + covariance)[1] / 2 / math.log(2)
            assert bits > 0.01 and information[k] == pytest.approx(bits, rel=1e-3)
    size = sum(b.numel() * b.element_size() for m in moments.values() for b in m.buffers())
    queues = sum(7 * (4 * dim + 8) for dim in measurement.dims.values())
    assert measurement.num_bytes == size + queues


def test_projection_keeps_lengths_on_average_and_is_the_same_for_a_seed():
    for dim in (1, 8, 24):
        matrix = random_projection(24, dim)
        assert matrix.shape == (24, dim) and torch.equal(matrix, random_projection(24, dim))
        torch.testing.assert_close(matrix.T @ matrix, torch.eye(dim) * (24 / dim))
    x = torch.linspace(-1, 2, 24)
    lengths = [(x @ random_projection(24, 8, seed=seed)).square().sum() for seed in range(400)]
    # The mean of 400 has a standard error of 2%
    assert torch.stack(lengths).mean() == pytest.approx(float(x.square().sum()), rel=0.08)
    assert len({round(length.item(), 3) for length in lengths}) > 390


def test_projected_moments_and_progress(cfg, digits, detector, monkeypatch):
    model, data = detector("plain"), batches(cfg)
    monkeypatch.setattr(measure, "SECONDS_BETWEEN_REPORTS", 0)
    lines = []
    small = DetectorMoments(model, embedding_dim=5).measure(data, 24, report=lines.append)
    whole = DetectorMoments(model, embedding_dim=16).measure(data, 24)
    small, whole = (m["roi_heads.box_predictor"] for m in (small, whole))
    matrix = random_projection(16, 5)
    torch.testing.assert_close(small.count, whole.count)
    torch.testing.assert_close(
        small.covariance(), matrix.T @ whole.covariance() @ matrix, rtol=1e-4, atol=1e-5
    )
    assert len(lines) == 7 and lines[0].startswith("6 of 24 images, ")
    assert lines[-1].startswith("24 of 24 images, ") and lines[-1].endswith(" 0:00:00 left")


@ROI_HEADS_REGISTRY.register()
class ForgetfulROIHeads(StandardROIHeads):
    def _forward_box(self, features, proposals):
        return super()._forward_box(features, [p[1:] for p in proposals])


def test_detectors_whose_embeddings_are_not_known(cfg, digits):
    cfg.MODEL.ROI_HEADS.NAME = "ForgetfulROIHeads"
    with pytest.raises(InputError, match="ForgetfulROIHeads does not classify every box"):
        DetectorMoments(build_model(cfg)).measure(batches(cfg), 24)
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    with pytest.raises(InputError, match=r"of ProposalNetwork cannot .* must be RetinaNet, or"):
        DetectorMoments(build_model(cfg))
