"""DETR learns, and in a real run has information amounts, checkpoints and an evaluation."""

import json
import shutil

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data.detection_utils import build_augmentation
from detectron2.modeling import build_model
from detectron2.structures import pairwise_iou
from detectron2.utils.events import EventStorage
from scipy.optimize import linear_sum_assignment
from tiny_detr import record, tiny_detr
from torchvision.ops import box_convert, generalized_box_iou

from igam_d2.engine import Trainer
from igam_d2.engine.measure import DetectorMoments, GroundTruthEmbeddings


def coloured(boxes: list[list[float]], classes: list[int], seed: int) -> dict:
    """Rectangles that can be told from each other, on noise."""
    image = record(boxes, classes, seed=seed)
    image["image"] *= 0.3
    for (x0, y0, x1, y1), k in zip(boxes, classes, strict=True):
        image["image"][k % 3, int(y0) : int(y1), int(x0) : int(x1)] = 255
    return image


@pytest.fixture(autouse=True)
def one_thread():
    """Small matrices: threads would wait for each other, for minutes on a machine that is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_it_learns_two_images(cfg):
    cfg = tiny_detr(cfg, "MODEL.DETR.HIDDEN_DIM", 32, "MODEL.DETR.DIM_FEEDFORWARD", 64)
    cfg.merge_from_list(["MODEL.DETR.ENC_LAYERS", 1, "MODEL.DETR.DEC_LAYERS", 2])
    cfg.merge_from_list(["MODEL.DETR.DROPOUT", 0.0, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.5])
    torch.manual_seed(0)
    model = build_model(cfg).train()
    images = [
        coloured([[5.0, 5, 30, 40], [40, 20, 60, 30]], [1, 9], seed=0),
        coloured([[10.0, 30, 58, 60]], [4], seed=1),
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    history = []
    for _ in range(140):
        with EventStorage():
            losses = model(images)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        history.append([loss.item() for loss in losses.values()])
    first, last = np.array(history[0]), np.array(history[-10:]).mean(0)
    assert (last < 0.25 * first).all() and last.sum() < 0.05 * first.sum()
    for image, output in zip(images, model.eval()(images), strict=True):
        truth, found = image["instances"], output["instances"]
        found = found[found.pred_classes.argsort()]
        assert found.pred_classes.tolist() == truth.gt_classes.tolist()
        assert pairwise_iou(found.pred_boxes, truth.gt_boxes).diagonal().min() > 0.75


def train(cfg, *, resume: bool) -> Trainer:
    torch.manual_seed(7)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_a_run_with_information_amounts_evaluation_and_resume(cfg, digits, tmp_path):
    cfg = tiny_detr(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("digits_lt_train",), ("digits_lt_val",)
    cfg.MODEL.IGAM.REFRESH_PERIOD = 3
    cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR = 2, 6, 1e-4
    cfg.OUTPUT_DIR = str(tmp_path / "whole")
    whole = train(cfg, resume=False)
    output = tmp_path / "whole"
    lines = [json.loads(line) for line in (output / "information.jsonl").open()]
    assert [(line["iteration"], line["predictor"]) for line in lines] == [
        (3, "classifier"), (6, "classifier")
    ]  # fmt: skip
    assert all(sum(line["count"]) > 0 for line in lines)
    assert whole.model.classifier.information.isfinite().any()
    assert whole.model.classifier.cls_loss.potentials.isfinite().any()
    results = json.loads((output / "inference/digits_lt_val/results.json").read_text())
    assert "AP" in results["metrics"]["bbox"]
    assert any(record["information"] is not None for record in results["classes"])
    names = set().union(*(json.loads(line) for line in (output / "metrics.json").open()))
    assert {"loss_cls", "loss_bbox", "loss_giou", "igam/information_mean"} <= names
    assert {"detr/cls_accuracy", "detr/fg_cls_accuracy", "detr/false_negative"} <= names

    # As if it had been killed after iteration 4, in the middle of the second period
    cfg.OUTPUT_DIR = str(tmp_path / "resumed")
    (tmp_path / "resumed").mkdir()
    for name in ("model_0000003.pth", "information.jsonl"):
        shutil.copy(output / name, tmp_path / "resumed" / name)
    (tmp_path / "resumed/last_checkpoint").write_text("model_0000003.pth")
    resumed = train(cfg, resume=True)
    assert resumed.start_iter == 4
    again = [json.loads(line) for line in (tmp_path / "resumed/information.jsonl").open()]
    assert again == lines
    a, b = whole.model.state_dict(), resumed.model.state_dict()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0, equal_nan=True, msg=key)


# --- information amounts of a trained detector


def matched_by_hand(model, image: dict) -> torch.Tensor:
    """The embedding of each instance's query, (G, D)."""
    x = model.decode(model.preprocess_image([image]))[-1, 0]
    embeddings = model.classifier.embedding(x)
    probs = model.classifier.cls_loss.predict_probs(model.classifier.cls_score(embeddings))
    boxes, truth = model.bbox_embed(x).sigmoid(), image["instances"]
    height, width = truth.image_size
    corners = truth.gt_boxes.tensor / torch.tensor([width, height, width, height])
    cost = (
        -probs[:, truth.gt_classes]
        + 5 * (boxes[:, None] - box_convert(corners, "xyxy", "cxcywh")).abs().sum(2)
        - 2 * generalized_box_iou(box_convert(boxes, "cxcywh", "xyxy"), corners)
    )
    instances, queries = linear_sum_assignment(cost.T)
    assert instances.tolist() == list(range(len(truth)))
    return embeddings[queries]


def test_measured_embeddings_are_of_the_matched_queries(cfg, digits):
    cfg = tiny_detr(cfg, "MODEL.DETR.NUM_QUERIES", 30)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    torch.nn.init.normal_(model.bbox_embed[4].weight)
    mapper = DatasetMapper(
        is_train=True, augmentations=build_augmentation(cfg, False), image_format="BGR"
    )
    records = [r for r in DatasetCatalog.get("digits_lt_train") if r["annotations"]][:12]
    images = [mapper(r) for r in records]
    batches = [images[:1], images[1:5], images[5:]]
    read = GroundTruthEmbeddings(model)
    assert read.widths == {"classifier": 8} and read.num_classes == 10
    rows, classes = [], []
    with torch.no_grad():
        for batch in batches:
            embeddings, of_class = read(batch)
            assert embeddings.keys() == {"classifier"}
            expected = torch.cat([matched_by_hand(model, image) for image in batch])
            torch.testing.assert_close(embeddings["classifier"], expected, rtol=1e-3, atol=1e-4)
            rows.append(expected)
            classes += [k for image in batch for k in image["instances"].gt_classes.tolist()]
            assert of_class.tolist() == classes[-len(of_class) :]
    moments = DetectorMoments(model, queue_length=7).measure(batches, 12)["classifier"]
    assert moments.count.tolist() == np.bincount(classes, minlength=10).tolist()
    k = int(np.bincount(classes).argmax())
    own = torch.cat(rows)[torch.tensor(classes) == k]
    covariance = torch.cov(own.double().T, correction=0)
    assert covariance.abs().max() > 1e-4
    assert moments.covariance()[k].numpy() == pytest.approx(
        covariance.numpy(), rel=1e-2, abs=1e-3 * covariance.abs().max().item()
    )
