"""NorCal and tau-normalisation against loops, their limits, and where they are applied."""

import json
import math

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.utils.events import EventStorage
from roi_data import proposals

from igam_d2.errors import InputError
from igam_d2.modeling import CosineOutputLayers, norcal, tau_normalized

K, D, R = 10, 8, 6
DTYPES = [torch.float64, torch.float32]


def softmaxes(dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(R, K + 1, generator=generator, dtype=dtype).mul(3).softmax(1)


def classifier(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(size, generator=generator, dtype=dtype)
        for size in ((R, D), (K + 1, D), (K + 1,))
    )
    return x, weight * torch.arange(1, K + 2)[:, None], bias


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gamma", [0.3, 0.6, 1.0])
def test_norcal_equals_the_loop_and_sums_to_one(dtype, gamma):
    counts = torch.tensor([1, 2, 5, 10, 11, 100, 500, 1000, 20000, 100170])
    probs = softmaxes(dtype)
    got = norcal(probs, counts, gamma)
    for row, calibrated in zip(probs.tolist(), got.tolist(), strict=True):
        scaled = [p / n**gamma for p, n in zip(row[:K], counts.tolist(), strict=True)] + [row[K]]
        expected = [value / sum(scaled) for value in scaled]
        assert calibrated == pytest.approx(expected, rel=1e-12 if dtype == torch.float64 else 1e-5)
    torch.testing.assert_close(got.sum(1), torch.ones(R, dtype=dtype))
    assert got.dtype == dtype


def test_norcal_changes_nothing_with_gamma_0_or_one_image_of_each_class():
    probs, counts = softmaxes(), torch.arange(1, K + 1)
    torch.testing.assert_close(norcal(probs, counts, 0.0), probs)
    torch.testing.assert_close(norcal(probs, torch.ones(K), 0.6), probs)
    # Equal counts lower the foreground as a whole, and leave its order and ratios
    equal = norcal(probs, torch.full((K,), 7), 0.6)
    torch.testing.assert_close(equal[:, 1:K] / equal[:, :1], probs[:, 1:K] / probs[:, :1])
    assert (equal[:, K] > probs[:, K]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_tau_normalisation_equals_the_loop(dtype, has_bias, tau):
    x, weight, bias = classifier(dtype)
    bias = bias if has_bias else None
    scores = torch.nn.functional.linear(x, weight, bias)
    num_classes = len(weight) - 1
    got = tau_normalized(scores, weight, bias, num_classes=num_classes, tau=tau)
    for row, scores in zip(x.tolist(), got.tolist(), strict=True):
        for j, w in enumerate(weight.tolist()):
            length = math.sqrt(sum(value * value for value in w)) if j < num_classes else 1.0
            expected = sum(a * b / length**tau for a, b in zip(row, w, strict=True))
            expected += bias[j].item() if has_bias else 0
            tolerance = 1e-12 if dtype == torch.float64 else 1e-4
            assert scores[j] == pytest.approx(expected, rel=tolerance, abs=tolerance)


def test_tau_normalisation_of_a_row_of_zeros_leaves_the_bias():
    x, weight, bias = classifier()
    weight[3] = 0
    scores = torch.nn.functional.linear(x, weight, bias)
    got = tau_normalized(scores, weight, bias, num_classes=4, tau=1.0)
    torch.testing.assert_close(got[:, 3], bias[3].expand(R))


@pytest.fixture
def calibrated(cfg, digits):
    cfg.DATASETS.TRAIN = ("digits_lt_train",)
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = "SoftmaxCELoss"
    return cfg


def predictor(cfg) -> CosineOutputLayers:
    torch.manual_seed(0)
    layers = CosineOutputLayers(cfg, ShapeSpec(channels=16))
    torch.nn.init.normal_(layers.cls_score.weight)
    torch.nn.init.normal_(layers.cls_score.bias)
    return layers


@pytest.mark.parametrize("gamma, tau", [(0.6, 0.0), (0.0, 0.7), (0.6, 0.7)])
def test_a_predictor_calibrates_at_test_time_alone(calibrated, digits, gamma, tau):
    plain = predictor(calibrated)
    calibrated.TEST.CALIBRATION.NORCAL_GAMMA, calibrated.TEST.CALIBRATION.TAU = gamma, tau
    layers = predictor(calibrated)
    assert list(layers.state_dict()) == list(plain.state_dict())
    batch, x = [proposals(4, [0, 3, K, K]), proposals(2, [K, 5], seed=1)], torch.randn(R, 16)
    with EventStorage():
        losses = [one.losses(one(x), batch)["loss_cls"] for one in (plain, layers)]
    torch.testing.assert_close(*losses, rtol=0, atol=0)

    scores, _, _ = predictions = layers(x)
    weight, bias = layers.cls_score.weight, layers.cls_score.bias
    expected = tau_normalized(scores, weight, bias, num_classes=K, tau=tau).softmax(1)
    path = digits / "digits_lt/annotations/digits_lt_train.json"
    categories = json.loads(path.read_text())["categories"]
    expected = norcal(expected, torch.tensor([c["image_count"] for c in categories]), gamma)
    probs = layers.predict_probs(predictions, batch)
    assert [len(p) for p in probs] == [4, 2]
    torch.testing.assert_close(torch.cat(probs), expected)
    assert not torch.allclose(expected, torch.cat(plain.predict_probs(plain(x), batch)), atol=1e-3)


def test_norcal_needs_the_training_images_of_every_class(calibrated):
    calibrated.TEST.CALIBRATION.NORCAL_GAMMA = 0.6
    for names, part in (((), "DATASETS.TRAIN"), (("digits_train",), "'digits_lt_train'")):
        calibrated.DATASETS.TRAIN = names
        with pytest.raises(InputError, match=r"NORCAL_GAMMA needs the class counts") as info:
            predictor(calibrated)
        assert part in str(info.value)
    annotations = [{"category_id": k} for k in range(K) if k not in (2, 7)]
    DatasetCatalog.register("small", lambda: [{"file_name": "a", "annotations": annotations}])
    MetadataCatalog.get("small").set(thing_classes=list("abcdefghij"))
    calibrated.DATASETS.TRAIN = ("small",)
    try:
        with pytest.raises(InputError, match=r"small has none of classes 2 \(c\), 7 \(h\): set it"):
            predictor(calibrated)
        calibrated.MODEL.ROI_HEADS.NUM_CLASSES = 3
        with pytest.raises(InputError, match=r"NUM_CLASSES is 3, but small has 10"):
            predictor(calibrated)
    finally:
        DatasetCatalog.pop("small"), MetadataCatalog.pop("small")
