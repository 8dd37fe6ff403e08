"""DETR in training and evaluation: padding, detections, every loss, and what its config must be."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.utils.events import EventStorage
from tiny_detr import LAYERS, QUERIES, record, tiny_detr

from igam_d2.config_checks import check_config
from igam_d2.engine.freeze import freeze_detector, second_stage_loss
from igam_d2.errors import InputError
from igam_d2.losses import CLS_LOSS_REGISTRY
from igam_d2.modeling.calibration import norcal, tau_normalized

K = 10
LOSSES = [name for name, _ in CLS_LOSS_REGISTRY]
BOXES = [[5.0, 5, 30, 30], [30, 30, 60, 60]]


@BACKBONE_REGISTRY.register()
class Patches(Backbone):
    """A map of patches of 16 px, each without a view of the others."""

    def __init__(self, cfg, input_shape: ShapeSpec):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 12, 16, stride=16)

    def forward(self, x):
        return {"patches": self.conv(F.pad(x, (0, -x.shape[3] % 16, 0, -x.shape[2] % 16)))}

    def output_shape(self):
        return {"patches": ShapeSpec(channels=12, stride=16)}


def patches_detr(cfg, *opts):
    """A model whose outputs differ from query to query."""
    patches = ["MODEL.BACKBONE.NAME", "Patches", "MODEL.DETR.IN_FEATURE", "patches"]
    cfg = tiny_detr(cfg, *patches, *opts)
    torch.manual_seed(0)
    model = build_model(cfg)
    for name in ("bbox_embed.4", "classifier.cls_score"):
        torch.nn.init.normal_(model.get_submodule(name).weight)
    return model


# --- images


def test_an_image_does_not_depend_on_how_much_padding_the_batch_adds(cfg):
    model = patches_detr(cfg).eval()
    image = record([], [], (40, 64), seed=1)
    with torch.no_grad():
        alone = model([image])[0]["instances"]
        for other in ((64, 64), (90, 150), (40, 300)):
            got = model([image, record([], [], other)])[0]["instances"]
            torch.testing.assert_close(got.scores, alone.scores, rtol=1e-4, atol=1e-5)
            assert got.pred_classes.tolist() == alone.pred_classes.tolist()
            torch.testing.assert_close(
                got.pred_boxes.tensor, alone.pred_boxes.tensor, rtol=1e-4, atol=1e-3
            )


@pytest.mark.parametrize("gamma, tau", [(0.0, 0.0), (0.6, 0.7)])
def test_detections_are_the_best_pairs_of_query_and_class(cfg, digits, gamma, tau):
    cfg.DATASETS.TRAIN = ("digits_lt_train",)
    cfg.TEST.DETECTIONS_PER_IMAGE, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 20, 0.02
    cfg.TEST.CALIBRATION.NORCAL_GAMMA, cfg.TEST.CALIBRATION.TAU = gamma, tau
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = "SoftmaxCELoss"
    model = patches_detr(cfg).eval()
    check_config(cfg)
    images = [record([], [], (40, 64), seed=1), record([], [], (64, 48), seed=2)]
    images[0] |= {"height": 80, "width": 192}
    with torch.no_grad():
        outputs = model(images)
        x = model.decode(model.preprocess_image(images))[-1]
        scores, _ = model.classifier(x.flatten(0, 1))
        classifier = model.classifier.cls_score
        scores = tau_normalized(scores, classifier.weight, classifier.bias, num_classes=K, tau=tau)
        probs = scores.softmax(1)
        if gamma:
            probs = norcal(probs, model.classifier.class_image_count, gamma)
        probs = probs.view(2, QUERIES, K + 1).tolist()
        boxes = model.bbox_embed(x).sigmoid().tolist()
    for i, (output, image) in enumerate(zip(outputs, images, strict=True)):
        pairs = [(probs[i][q][k], q, k) for q in range(QUERIES) for k in range(K)]
        pairs = [pair for pair in sorted(pairs, reverse=True)[:20] if pair[0] > 0.02]
        found = output["instances"]
        assert found.image_size == (image["height"], image["width"]) and len(found) == len(pairs)
        assert found.scores.tolist() == pytest.approx([p for p, *_ in pairs], rel=1e-5)
        assert found.pred_classes.tolist() == [k for *_, k in pairs]
        for got, (_, q, _) in zip(found.pred_boxes.tensor.tolist(), pairs, strict=True):
            x, y, w, h = boxes[i][q]
            box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
            sides = [found.image_size[1], found.image_size[0]] * 2
            box = [min(max(v, 0), 1) * side for v, side in zip(box, sides, strict=True)]
            assert got == pytest.approx(box, abs=1e-3)
    assert len({q for _, q, _ in pairs}) < len(pairs)  # some query gives several


# --- losses of the registry


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains_and_detects(cfg, digits, name):
    cfg.DATASETS.TRAIN = ("digits_lt_train",)  # for those that ask for counts
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = name
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    model = patches_detr(cfg).train()
    check_config(cfg)
    if second_stage_loss(model) is not None:
        model = freeze_detector(model)
    for classes in ([1, 9], []):
        images = [record(BOXES[: len(classes)], classes), record([], [], (40, 64))]
        with EventStorage():
            losses = model(images)
        assert losses.keys() == {"loss_cls", "loss_bbox", "loss_giou"}
        sum(losses.values()).backward()
        instances = model.classifier.take_instances()
        assert model.classifier.take_instances() is None
        if classes:
            embeddings, of_class = instances
            assert embeddings.shape == (2, 8) and not embeddings.requires_grad
            assert of_class.tolist() == classes
        else:
            assert instances is None
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    frozen = second_stage_loss(model) is not None
    assert frozen != any(p is model.query_embed.weight for p in trained)
    found = model.eval()([record([], [])])[0]["instances"]
    assert 0 < len(found) <= QUERIES * K and (found.pred_classes < K).all()


def test_kept_embeddings_are_those_of_the_last_layers_matched_queries(cfg):
    model = patches_detr(cfg, "MODEL.DETR.DROPOUT", 0.0).train()
    images = [record(BOXES, [1, 9]), record(BOXES[:1], [4], seed=1)]
    with EventStorage():
        model(images)
    embeddings, classes = model.classifier.take_instances()
    expected, expected_classes = model.eval().matched_embeddings(images)
    torch.testing.assert_close(embeddings, expected)
    assert classes.tolist() == expected_classes.tolist() == [1, 9, 4]
    crowded = [record(BOXES * QUERIES, [3] * 2 * QUERIES)]
    embeddings, classes = model.matched_embeddings(crowded)
    assert embeddings.shape == (QUERIES, 8) and classes.tolist() == [3] * QUERIES


@pytest.mark.parametrize("aux", [True, False])
def test_auxiliary_losses_are_of_all_layers(cfg, aux):
    model = patches_detr(cfg, "MODEL.DETR.AUX_LOSS", aux).train()
    seen = []
    model.criterion.matcher.costs, costs = (
        lambda probs, *rest: seen.append(len(probs)) or costs(probs, *rest),
        model.criterion.matcher.costs,
    )
    with EventStorage():
        sum(model([record(BOXES, [1, 9])]).values()).backward()
    assert seen == [LAYERS if aux else 1]
    assert all(p.grad is not None for p in model.parameters())


def test_float32_losses_and_boxes_under_autocast(cfg):
    model = patches_detr(cfg, "MODEL.DETR.DROPOUT", 0.0).train()
    images = [record(BOXES, [1, 9]), record([], [], (40, 64))]
    values = []
    for enabled in (False, True):
        with EventStorage(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses = model(images)
            found = model.eval()(images)[0]["instances"]
            model.train()
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        assert found.pred_boxes.tensor.dtype == found.scores.dtype == torch.float32
        values.append(torch.stack(list(losses.values())))
    torch.testing.assert_close(*values, rtol=0.1, atol=0.1)


# --- config


@pytest.mark.parametrize(
    "opts, parts",
    [
        (["NUM_QUERIES", 0], ["NUM_QUERIES is 0", "at least 1"]),
        (["DEC_LAYERS", 0], ["DEC_LAYERS is 0"]),
        (["HIDDEN_DIM", 18], ["HIDDEN_DIM is 18", "multiple of 4"]),
        (["NUM_HEADS", 3], ["HIDDEN_DIM is 16, NUM_HEADS 3", "multiple of NUM_HEADS"]),
        (["DROPOUT", 1.0], ["DROPOUT is 1.0", "below 1"]),
        (["NO_OBJECT_WEIGHT", -0.1], ["NO_OBJECT_WEIGHT is -0.1"]),
        (["L1_COST", math.inf], ["L1_COST is inf"]),
        (["L1_COST", 0.0, "CLS_COST", 0.0, "GIOU_COST", 0.0], ["are all 0", "5.0"]),
        (["MODEL.MASK_ON", True], ["MASK_ON is True", "no mask head"]),
        (["MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True], ["no effect in DETR"]),
    ],
)
def test_bad_values_get_one_sentence(cfg, opts, parts):
    opts = [o if not isinstance(o, str) or "." in o else f"MODEL.DETR.{o}" for o in opts]
    check_config(tiny_detr(cfg))
    with pytest.raises(InputError) as info:
        check_config(tiny_detr(cfg, *opts))
    message = str(info.value)
    assert all(part in message for part in parts) and "\n" not in message, message


def test_a_feature_map_that_the_backbone_does_not_have(cfg):
    with pytest.raises(InputError, match=r"IN_FEATURE is 'res5', but build_resnet_backbone has re"):
        build_model(tiny_detr(cfg, "MODEL.RESNETS.OUT_FEATURES", ["res3", "res4"]))
