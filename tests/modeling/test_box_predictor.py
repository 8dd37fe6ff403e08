"""The predictor in training and evaluation, with and without objects."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from roi_data import proposals, truth

from igam_d2.losses import CLS_LOSS_REGISTRY
from igam_d2.modeling import CosineLinear, CosineOutputLayers

K, D = 10, 8
LOSSES = [name for name, _ in CLS_LOSS_REGISTRY]


def predictor(cfg) -> CosineOutputLayers:
    return CosineOutputLayers(cfg, ShapeSpec(channels=16))


def test_cosines_are_float32_under_autocast_and_bounded():
    layer = CosineLinear(D, K + 1)
    x = torch.randn(6, D) * 100
    x[0] = 0
    expected = F.cosine_similarity(x[:, None], layer.weight[None], dim=-1)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cosine = layer(x.bfloat16())
    assert cosine.dtype == torch.float32 and cosine.abs().max() <= 1
    torch.testing.assert_close(cosine, expected, atol=2e-2, rtol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_the_loss_of_the_registry_and_probabilities_are_split(cfg, digits, name):
    cfg.DATASETS.TRAIN = ("digits_lt_train",)  # for those that ask for counts
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = name
    layers = predictor(cfg)
    alone = copy.deepcopy(layers.cls_loss)  # some have a state, and some draw at random
    batch = [proposals(4, [0, 3, K, K]), proposals(2, [K, K], seed=1)]
    with EventStorage():
        predictions = layers(torch.randn(6, 16))
        torch.manual_seed(0)
        losses = layers.losses(predictions, batch)
    torch.manual_seed(0)
    expected = alone(
        predictions[0],
        torch.tensor([0, 3, K, K, K, K]),
        embeddings=predictions[2],
        class_weight=layers.cls_score.weight,
    )
    torch.testing.assert_close(losses["loss_cls"], sum(expected.values()))
    assert losses["loss_box_reg"] > 0
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in layers.parameters())
    probs = layers.predict_probs(predictions, batch)
    assert [tuple(p.shape) for p in probs] == [(4, K + 1), (2, K + 1)]
    detections, _ = layers.inference(predictions, batch)
    assert all((d.pred_classes < K).all() for d in detections)


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_changes_no_loss(cfg, digits, name):
    """Its sums would be of bfloat16, and of RoIs that are nearly right even negative."""
    cfg.DATASETS.TRAIN = ("digits_lt_train",)
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = name
    layers = predictor(cfg)
    gt_classes = [0, 3, 3, 9, K, K, K, K]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores, deltas, embeddings = layers(torch.randn(8, 16))
    values, probs = [], []
    for enabled in (False, True):
        twin = copy.deepcopy(layers)
        leaf = scores.detach().clone().requires_grad_()
        predictions = leaf, deltas.detach().float(), embeddings.detach()
        torch.manual_seed(0)
        with EventStorage(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = twin.losses(predictions, [proposals(8, gt_classes)])["loss_cls"]
            probs.append(twin.predict_probs(predictions, [proposals(8, gt_classes)])[0])
        loss.backward()
        values.append((loss, leaf.grad))
    assert values[1][0].dtype == torch.float32
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=0)
    torch.testing.assert_close(*probs, rtol=0, atol=0)
    assert probs[0].dtype == torch.float32


@pytest.mark.parametrize("batch", [[proposals(0, [])], [proposals(3, [K, K, K])]])
def test_empty_and_background_batches(cfg, batch):
    layers = predictor(cfg)
    with EventStorage():
        predictions = layers(torch.randn(sum(map(len, batch)), 16))
        losses = layers.losses(predictions, batch)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values()) and losses["loss_box_reg"] == 0
    assert layers.take_instances() is None
    layers.inference(predictions, batch)


def test_one_embedding_per_instance_that_of_the_best_roi(cfg):
    layers = predictor(cfg)
    first, second = proposals(5, [2, K, 7, K, 2]), proposals(3, [1, K, K], seed=1)
    exact = [first.proposal_boxes.tensor[4].tolist(), first.proposal_boxes.tensor[2].tolist()]
    shifted = (second.proposal_boxes.tensor[0] + 2).tolist()
    nowhere = [60.0, 60.0, 64.0, 64.0]  # its own box was not sampled, and no other is near
    targets = [truth(exact, [2, 7]), truth([shifted, nowhere], [1, 5])]
    layers.match_instances([first, second], targets)
    with EventStorage():
        predictions = layers(torch.randn(8, 16))
        layers.losses(predictions, [first, second])
    embeddings, classes = layers.take_instances()
    assert classes.tolist() == [2, 7, 1, K]
    torch.testing.assert_close(embeddings[:3], predictions[2][[4, 2, 5]])
    assert not embeddings.requires_grad and layers.take_instances() is None


def test_matching_instances_never_waits_for_the_device(cfg):
    """Tensors without values: to look at one, as a synchronisation does, is an error."""
    layers = predictor(cfg).to("meta")
    rois, instances = Instances((64, 64)), Instances((64, 64))
    rois.proposal_boxes = Boxes(torch.empty(9, 4, device="meta"))
    instances.gt_boxes = Boxes(torch.empty(2, 4, device="meta"))
    instances.gt_classes = torch.empty(2, dtype=torch.int64, device="meta")
    layers.match_instances([rois, rois], [instances, instances])
    index, classes = layers._matched
    assert len(index) == len(classes) == 4


def test_information_reaches_the_loss_and_is_saved(cfg):
    layers = predictor(cfg)
    assert layers.information.isnan().all()
    information = torch.linspace(5, 15, K)
    information[3] = math.nan
    layers.set_information(information)
    potentials = layers.cls_loss.potentials
    assert potentials.isnan().nonzero().tolist() == [[3]] and potentials[9] > potentials[0]
    other = predictor(cfg)
    other.load_state_dict(layers.state_dict())
    torch.testing.assert_close(other.information, information, equal_nan=True)


def test_embedding_dim_zero_classifies_the_box_features(cfg):
    cfg.MODEL.IGAM.EMBEDDING_DIM = 0
    layers = predictor(cfg)
    x = torch.randn(2, 16)
    assert layers.embedding_dim == 16 and torch.equal(layers(x)[2], x)
