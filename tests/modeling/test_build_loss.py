"""What a loss is given of the training annotations, and what is said where that cannot be."""

import json
from collections import Counter

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import ShapeSpec

from igam_d2.config_checks import check_config
from igam_d2.engine import Checkpointer
from igam_d2.errors import InputError
from igam_d2.losses import CLS_LOSS_REGISTRY
from igam_d2.losses.base import EmptyClassError
from igam_d2.losses.softmax_ce import SoftmaxCELoss
from igam_d2.modeling import CosineOutputLayers, build_cls_loss, build_loss

K = 10


class CountingLoss(SoftmaxCELoss):
    """Softmax over scores plus log n, which it needs at test time; asks for all there is."""

    def __init__(
        self,
        num_classes,
        embedding_dim,
        class_image_count,
        class_instance_count,
        num_images,
        class_frequency,
        *,
        power: float = 1.0,
    ):
        super().__init__(num_classes)
        if not power >= 0:
            raise ValueError(f"power must not be negative, not {power}.")
        empty = (class_instance_count == 0).nonzero().flatten().tolist()
        if empty:
            raise EmptyClassError(empty)
        self.given = (class_image_count, class_instance_count, num_images, class_frequency)
        self.embedding_dim = embedding_dim
        shift = class_image_count.double().pow(power).log()
        self.register_buffer("shift", torch.cat([shift, shift.new_zeros(1)]).float())

    def predict_probs(self, scores, *, embeddings=None):
        return torch.softmax(scores + self.shift, dim=-1)


@pytest.fixture
def counting(cfg, monkeypatch):
    monkeypatch.setitem(CLS_LOSS_REGISTRY._obj_map, "CountingLoss", CountingLoss)
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = "CountingLoss"
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.CountingLoss = CfgNode({"POWER": 1.0})
    cfg.DATASETS.TRAIN = ("digits_lt_train",)
    return cfg


def predictor(cfg) -> CosineOutputLayers:
    return CosineOutputLayers(cfg, ShapeSpec(channels=4, height=2, width=2))


def refusal(cfg) -> str:
    with pytest.raises(InputError) as info:
        predictor(cfg)
    assert "\n" not in str(info.value)
    return str(info.value)


def small(cfg, annotated: list[list[int]], names: list[str]) -> None:
    """Registers a data set of images with these classes as the training set."""
    records = [
        {"file_name": str(i), "annotations": [{"category_id": k} for k in classes]}
        for i, classes in enumerate(annotated)
    ]
    DatasetCatalog.register("small_train", lambda: records)
    MetadataCatalog.get("small_train").set(thing_classes=names)
    cfg.DATASETS.TRAIN = ("small_train",)


@pytest.fixture
def forget():
    yield
    DatasetCatalog.pop("small_train")
    MetadataCatalog.pop("small_train")


def test_counts_are_those_of_the_training_set(counting, digits):
    path = digits / "digits_lt/annotations/digits_lt_train.json"
    data = json.loads(path.read_text())
    ids = sorted(category["id"] for category in data["categories"])
    instances = Counter(a["category_id"] for a in data["annotations"])
    images = Counter(k for k, _ in {(a["category_id"], a["image_id"]) for a in data["annotations"]})
    image_count, instance_count, num_images, frequency = predictor(counting).cls_loss.given
    assert image_count.dtype == instance_count.dtype == torch.int64
    assert image_count.tolist() == [images[k] for k in ids]
    assert instance_count.tolist() == [instances[k] for k in ids]
    assert num_images == len(data["images"])
    assert frequency == ["r" if images[k] <= 10 else "c" for k in ids] and "c" in frequency


@pytest.mark.parametrize("dim, expected", [(8, 8), (0, 16)])
def test_embedding_dim_is_that_of_the_predictor(counting, digits, dim, expected):
    counting.MODEL.IGAM.EMBEDDING_DIM = dim
    layers = predictor(counting)
    assert layers.cls_loss.embedding_dim == layers.embedding_dim == expected


def test_nothing_is_read_without_need(counting, monkeypatch):
    monkeypatch.setattr(build_loss, "class_counts", pytest.fail)
    check_config(counting)
    counting.MODEL.ROI_BOX_HEAD.CLS_LOSS.CountingLoss.POWER = -1.0
    with pytest.raises(InputError, match=r"CLS_LOSS\.CountingLoss: power must not be negative"):
        check_config(counting)
    counting.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = "SoftmaxCELoss"
    predictor(counting)


@pytest.mark.parametrize(
    "missing, part",
    [
        ("file", "gone.json"),
        ("name", "digits_lt_train"),
        ("none", "DATASETS.TRAIN"),
        ("folder", "No such file: 'VOC2007'"),
        ("format", "ValueError invalid literal"),
        ("annotations", "small_train has no annotations"),
        ("classes", "'small_train' has no thing_classes"),
    ],
)
def test_without_the_training_set_it_predicts_but_does_not_train(
    counting, digits, missing, part, tmp_path, forget
):
    whole = predictor(counting)
    Checkpointer(whole, str(tmp_path)).save("model")

    def gone():
        raise FileNotFoundError("[Errno 2] No such file: 'VOC2007'")

    loaders = {"format": lambda: int("VOC"), "annotations": lambda: [{}], "classes": lambda: [{}]}
    DatasetCatalog.register("small_train", loaders.get(missing, gone))
    if missing != "classes":
        MetadataCatalog.get("small_train").set(thing_classes=["x"] * K)
    if missing == "file":
        MetadataCatalog.get("small_train").set(json_file=str(tmp_path / "gone.json"))
    trained_on = {"none": (), "name": ("digits_train",)}.get(missing, ("small_train",))
    counting.DATASETS.TRAIN = trained_on
    layers = predictor(counting)
    Checkpointer(layers, exact=True).load(str(tmp_path / "model.pth"))
    scores = torch.randn(3, K + 1)
    probs = layers.cls_loss.predict_probs(scores)
    torch.testing.assert_close(probs, whole.cls_loss.predict_probs(scores))
    with pytest.raises(InputError) as info:
        layers.cls_loss(scores, torch.tensor([0, 1, K]))
    assert str(info.value).startswith("CountingLoss needs the class counts of the training set")
    assert part in str(info.value) and "\n" not in str(info.value)


def test_another_number_of_classes_is_refused(counting, digits):
    counting.MODEL.ROI_HEADS.NUM_CLASSES = 12
    message = refusal(counting)
    assert "NUM_CLASSES is 12, but digits_lt_train has 10 categories: set it to 10" in message


@pytest.mark.parametrize(
    "used, expected",
    [
        (range(9), "has none of class 9 (j): leave"),
        ([1, 4], "has none of classes 0 (a), 2 (c), 3 (d), 5 (f), 6 (g) and 3 more: leave"),
    ],
)
def test_classes_without_training_data_are_named(counting, forget, used, expected):
    small(counting, [[k] for k in used], list("abcdefghij"))
    message = refusal(counting)
    assert message.startswith("CountingLoss needs training data of every class, and small_train")
    assert expected in message and "CLS_LOSS.NAME that takes them" in message


def test_the_registered_loss_is_the_one_that_is_built(counting, digits):
    assert isinstance(build_cls_loss(counting, 8), CountingLoss)
