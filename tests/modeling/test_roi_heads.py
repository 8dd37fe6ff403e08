"""The RoI heads in training and evaluation, with and without objects; a cascade's stages."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from roi_data import image, truth

from igam_d2.losses import CLS_LOSS_REGISTRY
from igam_d2.modeling import CosineOutputLayers

K = 10
LOSSES = [name for name, _ in CLS_LOSS_REGISTRY]
BATCHES = [
    [image(truth([[5.0, 5, 30, 30], [30, 30, 60, 60]], [1, 9])), image(truth([], []))],
    [image(truth([], []))],
]


def detector(cfg, heads: str, loss: str = "IGAMLoss"):
    cfg.MODEL.ROI_HEADS.NAME = heads
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = "Cascade" in heads
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = loss
    cfg.MODEL.PIXEL_STD = [57.0, 57.0, 57.0]
    cfg.MODEL.BACKBONE.FREEZE_AT = 5  # saves most of the time
    cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = 1.0  # no instance's own box is left out by chance
    return build_model(cfg).train()


def predictors(model) -> list[CosineOutputLayers]:
    return [module for module in model.modules() if isinstance(module, CosineOutputLayers)]


@pytest.mark.parametrize(
    "heads, loss, mask",
    [
        *(("IGAMROIHeads", loss, True) for loss in LOSSES),
        ("IGAMROIHeads", "IGAMLoss", False),
        *(("IGAMCascadeROIHeads", loss, True) for loss in LOSSES),
        ("IGAMCascadeROIHeads", "IGAMLoss", False),
    ],
)
def test_detector_trains_and_detects(cfg, digits, heads, loss, mask):
    cfg.DATASETS.TRAIN = ("digits_lt_train",)  # for losses that ask for counts
    cfg.MODEL.MASK_ON = mask
    model = detector(cfg, heads, loss)
    stages = predictors(model)
    assert len(stages) == (3 if "Cascade" in heads else 1)
    assert len({type(stage.cls_loss) for stage in stages}) == 1
    assert len({id(stage.cls_loss) for stage in stages}) == len(stages)
    for batch, seen in zip(BATCHES, ([1, 9], None), strict=True):
        with EventStorage():
            losses = model(batch)
        assert ("loss_mask" in losses) == mask
        assert sum("loss_cls" in name for name in losses) == len(stages)
        assert all(value.isfinite() for value in losses.values())
        sum(losses.values()).backward()
        for number, stage in enumerate(stages):
            instances = stage.take_instances()
            assert (instances is None) == (seen is None)
            # A later stage may have moved every RoI away from an instance
            assert seen is None or number or instances[1].tolist() == seen
    gradients = [p.grad for stage in stages for p in stage.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in gradients)
    with torch.no_grad():
        (output,) = model.eval()([image()])
    assert output["instances"].has("pred_masks") == mask
    assert all(stage.take_instances() is None for stage in stages)
    names = " ".join(model.state_dict())
    assert "queue" not in names and "moments" not in names


def test_embeddings_of_a_stage_are_of_its_own_best_rois(cfg):
    torch.manual_seed(0)
    model = detector(cfg, "IGAMCascadeROIHeads")
    stages, seen = predictors(model), []
    for stage, weights in zip(stages, cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS, strict=True):
        assert stage.box2box_transform.weights == weights
        stage.bbox_pred.weight.data.normal_(std=0.3)  # else no box moves

        def losses(predictions, proposals, original=stage.losses):
            seen.append((predictions[2].detach(), [p.proposal_boxes.tensor for p in proposals]))
            return original(predictions, proposals)

        stage.losses = losses
    targets = [
        truth([[5.0, 5, 30, 30], [30, 30, 60, 60], [2, 2, 8, 8]], [1, 9, 4]),
        truth([], []),
        truth([[10.0, 20, 40, 50]], [6]),
    ]
    with EventStorage():
        model([image(target) for target in targets])
    assert len(seen) == 3
    kept = []
    for stage, (embeddings, boxes) in zip(stages, seen, strict=True):
        got, classes = stage.take_instances()
        expected, expected_classes, start = [], [], 0
        for target, rois in zip(targets, boxes, strict=True):
            for box, k in zip(target.gt_boxes.tensor, target.gt_classes.tolist(), strict=True):
                overlaps = [overlap(box.tolist(), roi.tolist()) for roi in rois]
                best = max(range(len(rois)), key=overlaps.__getitem__)
                expected.append(embeddings[start + best])
                expected_classes.append(k if overlaps[best] >= 0.5 else K)
            start += len(rois)
        torch.testing.assert_close(got, torch.stack(expected), rtol=0, atol=0)
        assert classes.tolist() == expected_classes
        kept.append(sum(k < K for k in expected_classes))
    assert kept[0] == 4 and not torch.equal(seen[0][1][0], seen[1][1][0])


def overlap(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b)]
    return width * height / (sum(areas) - width * height)
