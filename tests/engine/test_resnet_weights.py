"""torchvision's ImageNet weights of ResNets, as files that torchvision would give."""

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
