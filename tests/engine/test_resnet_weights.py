"""torchvision's ImageNet weights of ResNets, as files that torchvision would give."""

import logging

import pytest
import torch
from detectron2.modeling import build_model
from torchvision.models import resnet18, resnet50, resnet101

from igam_d2.engine import Checkpointer
from igam_d2.errors import InputError


@pytest.fixture
def detector(cfg):
    """The tiny detector over a ResNet-50 of full width."""
    resnets = cfg.MODEL.RESNETS
    resnets.NORM, resnets.STRIDE_IN_1X1 = "FrozenBN", False
    resnets.STEM_OUT_CHANNELS = resnets.WIDTH_PER_GROUP = 64
    resnets.RES2_OUT_CHANNELS = 256
    return cfg


def load(cfg, weights, tmp_path):
    torch.save(weights, tmp_path / "resnet.pth")
    model = build_model(cfg).eval()
    Checkpointer(model, str(tmp_path)).resume_or_load(str(tmp_path / "resnet.pth"), resume=False)
    return model


def test_features_are_those_of_torchvision(detector, tmp_path):
    torch.manual_seed(0)
    theirs = resnet50(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    model = load(detector, theirs.state_dict(), tmp_path)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        ours = model.backbone.bottom_up(x)["res5"]
        for name, layer in theirs.named_children():
            x = layer(x)
            if name == "layer4":
                break
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("other", [resnet18, resnet101])
def test_another_resnet_is_refused(detector, tmp_path, other):
    with pytest.raises(InputError, match=r"do not fit: .* set MODEL\.RESNETS\.DEPTH to theirs"):
        load(detector, other(weights=None).state_dict(), tmp_path)


def test_strides_elsewhere_are_refused(detector, tmp_path):
    detector.MODEL.RESNETS.STRIDE_IN_1X1 = True
    with pytest.raises(InputError, match=r"STRIDE_IN_1X1 to False"):
        load(detector, resnet50(weights=None).state_dict(), tmp_path)


def test_a_detector_without_a_resnet_is_refused(detector, tmp_path):
    detector.MODEL.BACKBONE.NAME = "build_swin_fpn_backbone"
    detector.MODEL.SWIN.EMBED_DIM, detector.MODEL.SWIN.DEPTHS = 12, [1, 1, 1, 1]
    detector.MODEL.SWIN.DROP_PATH_RATE, detector.MODEL.FPN.IN_FEATURES = 0.0, ["p1", "p2", "p3"]
    with pytest.raises(InputError, match=r"torchvision's ResNet, which .* has not: set .*_resnet_"):
        load(detector, resnet50(weights=None).state_dict(), tmp_path)


RGB = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
}


@pytest.mark.parametrize(
    "values, said",
    [
        ({}, "(INPUT.FORMAT BGR, MODEL.PIXEL_MEAN [103.53, 116.28, 123.675], MODEL.PIXEL_STD [1.0"),
        ({**RGB, "MODEL.PIXEL_STD": [1.0, 1.0, 1.0]}, "MODEL.PIXEL_STD [1.0, 1.0, 1.0])"),
        ({**RGB, "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675]}, "MODEL.PIXEL_MEAN [103.53, "),
        ({**RGB, "INPUT.FORMAT": "BGR"}, "(INPUT.FORMAT BGR, "),
        (RGB, ""),
    ],
)
def test_images_that_are_not_those_of_the_weights_are_warned_of(
    detector, tmp_path, caplog, values, said
):
    detector.merge_from_list([part for pair in values.items() for part in pair])
    with caplog.at_level(logging.INFO):
        load(detector, resnet50(weights=None).state_dict(), tmp_path)
    assert "ResNet, of RGB images" in caplog.text
    warnings = [m for m in caplog.messages if "this model's images are others" in m]
    assert len(warnings) == bool(said) and all(said in message for message in warnings)
    right = "INPUT.FORMAT to RGB, MODEL.PIXEL_MEAN to [123.675, 116.28, 103.53] and MODEL.PIXEL_STD"
    assert all(f"set {right} to [58.395, 57.12, 57.375]." in message for message in warnings)
