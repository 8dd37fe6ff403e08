"""Published DETR weights, by files with their names and shapes."""

import logging
import re

import pytest
import torch
from detectron2.modeling import build_model
from tiny_detr import DIM, LAYERS, QUERIES, tiny_detr
from torchvision.models import resnet50

from igam_d2.engine import Checkpointer
from igam_d2.errors import InputError

FEEDFORWARD = 24


def transformer_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the public code, for its `hidden_dim` 16 and so on."""

    def linear(name, outputs, inputs):
        return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

    def norm(name):
        return {f"{name}.weight": (DIM,), f"{name}.bias": (DIM,)}

    def attention(name):
        packed = {f"{name}.in_proj_weight": (3 * DIM, DIM), f"{name}.in_proj_bias": (3 * DIM,)}
        return packed | linear(f"{name}.out_proj", DIM, DIM)

    shapes = {}
    for kind, number, attentions in (
        ("encoder", 2, ["self_attn"]),
        ("decoder", LAYERS, ["self_attn", "multihead_attn"]),
    ):
        for layer in (f"transformer.{kind}.layers.{i}" for i in range(number)):
            for i, name in enumerate((*attentions, "feed-forward"), start=1):
                shapes |= norm(f"{layer}.norm{i}")
                shapes |= attention(f"{layer}.{name}") if i <= len(attentions) else {}
            shapes |= linear(f"{layer}.linear1", FEEDFORWARD, DIM)
            shapes |= linear(f"{layer}.linear2", DIM, FEEDFORWARD)
    shapes |= norm("transformer.decoder.norm") | linear("class_embed", 92, DIM)
    for i, outputs in enumerate((DIM, DIM, 4)):
        shapes |= linear(f"bbox_embed.layers.{i}", outputs, DIM)
    shapes |= {"query_embed.weight": (QUERIES, DIM), "input_proj.bias": (DIM,)}
    return shapes | {"input_proj.weight": (DIM, 2048, 1, 1)}


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    resnet = resnet50(weights=None).eval()
    for module in resnet.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                torch.nn.init.normal_(tensor, std=0.1)
    return resnet


@pytest.fixture(scope="module")
def published(resnet) -> dict[str, torch.Tensor]:
    state = {name: torch.randn(shape) for name, shape in transformer_shapes().items()}
    for name, value in resnet.state_dict().items():
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked"):
            state[f"backbone.0.body.{name}"] = value
    assert len(state) == 265 + 193 - 4 * 12 - 3 * 18  # of R50, with fewer layers
    return state


def detectron2_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As the public code's d2/converter.py writes them, and its training with Detectron2."""
    renamed = {"criterion.empty_weight": torch.ones(81)}
    for name, value in state.items():
        if "backbone" in name:
            name = name.replace("backbone.0.body.", "")
            name = name if "layer" in name else f"stem.{name}"
            for i in (4, 3, 2, 1):
                name = name.replace(f"layer{i}", f"res{i + 1}").replace(f"bn{i}", f"conv{i}.norm")
            name = name.replace("downsample.0", "shortcut")
            name = "backbone.0.backbone." + name.replace("downsample.1", "shortcut.norm")
        renamed[f"detr.{name}"] = value[:81] if "class_embed" in name else value
    return renamed


@pytest.fixture
def model_of(cfg):
    def build(*opts):
        usual = {"STEM_OUT_CHANNELS": 64, "RES2_OUT_CHANNELS": 256, "WIDTH_PER_GROUP": 64}
        usual |= {"NORM": "FrozenBN", "STRIDE_IN_1X1": False}
        keys = [part for key, value in usual.items() for part in (f"MODEL.RESNETS.{key}", value)]
        return build_model(tiny_detr(cfg, *keys, *opts)).eval()

    return build


def load(model, state, tmp_path, **kwargs):
    torch.save({"model": state}, tmp_path / "detr-r50.pth")
    Checkpointer(model, **kwargs).resume_or_load(str(tmp_path / "detr-r50.pth"), resume=False)


@pytest.mark.parametrize("names", [dict, detectron2_names])
def test_everything_but_the_classifier_is_taken(
    model_of, published, resnet, tmp_path, caplog, names
):
    model = model_of()
    before = {k: v.clone() for k, v in model.state_dict().items() if "classifier" in k}
    with caplog.at_level(logging.INFO):
        load(model, names(published), tmp_path)
    after = model.state_dict()
    taken = {key: value for key, value in after.items() if key not in before}
    assert len(taken) == len(published) - 2
    for key, value in published.items():
        if key.startswith(("transformer.", "query_embed", "input_proj")):
            torch.testing.assert_close(after[key], value, rtol=0, atol=0)
        elif layer := re.match(r"bbox_embed\.layers\.(\d)\.(.*)", key):
            linears = [m for m in model.bbox_embed if isinstance(m, torch.nn.Linear)]
            own = linears[int(layer[1])].state_dict()[layer[2]]
            torch.testing.assert_close(own, value, rtol=0, atol=0)
    images = torch.randn(1, 3, 70, 90)
    with torch.no_grad():
        x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(images))))
        expected = resnet.layer4(resnet.layer3(resnet.layer2(resnet.layer1(x))))
        torch.testing.assert_close(model.backbone(images)["res5"], expected, rtol=1e-4, atol=1e-4)
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=0, equal_nan=True)
    (message,) = [r.message for r in caplog.records if "class_embed" in r.message]
    assert "class_embed.weight (" in message and "starts untrained" in message


def test_another_number_of_queries_starts_anew_with_a_warning(
    model_of, published, tmp_path, caplog
):
    model = model_of("MODEL.DETR.NUM_QUERIES", QUERIES + 3)
    before = model.query_embed.weight.clone()
    with caplog.at_level(logging.WARNING):
        load(model, published, tmp_path)
    assert torch.equal(model.query_embed.weight, before)
    key = "transformer.decoder.norm.weight"
    assert torch.equal(model.state_dict()[key], published[key])
    (message,) = [r.message for r in caplog.records if "start untrained" in r.message]
    assert "query_embed.weight has shape (7, 16) there and (10, 16)" in message


SWIN = ["MODEL.BACKBONE.NAME", "build_swin_backbone", "MODEL.SWIN.OUT_FEATURES", ["p3"]]
SWIN += ["MODEL.DETR.IN_FEATURE", "p3", "MODEL.SWIN.DROP_PATH_RATE", 0.0]


@pytest.mark.parametrize("names", [dict, detectron2_names])
@pytest.mark.parametrize(
    "opts, message",
    [
        (["MODEL.RESNETS.DEPTH", 101], r"another ResNet .*: set MODEL\.RESNETS\.DEPTH to theirs"),
        (["MODEL.RESNETS.STRIDE_IN_1X1", True], r"set MODEL\.RESNETS\.STRIDE_IN_1X1 to False"),
        (SWIN, r"a DETR over a ResNet, .*: set MODEL\.BACKBONE\.NAME to build_resnet_backbone"),
    ],
)
def test_another_backbone_is_refused(model_of, published, tmp_path, names, opts, message):
    with pytest.raises(InputError, match=rf"r50\.pth' do not fit: .*{message}"):
        load(model_of(*opts), names(published), tmp_path)


def test_another_meta_architecture_is_refused(cfg, published, tmp_path):
    with pytest.raises(InputError, match=r"which this model is not: set MODEL\.META_ARCHITECTURE"):
        load(build_model(cfg), published, tmp_path)


def test_the_backbone_may_be_under_a_pyramid(model_of, published, tmp_path):
    fpn = ["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.FPN.IN_FEATURES", ["res5"]]
    model = model_of(*fpn, "MODEL.DETR.IN_FEATURE", "p5")
    load(model, published, tmp_path)
    own = model.backbone.bottom_up.res5[2].conv3.weight
    assert torch.equal(own, published["backbone.0.body.layer4.2.conv3.weight"])


def test_without_a_classifier_they_are_not_evaluated(model_of, published, tmp_path):
    with pytest.raises(InputError, match=r"classifier\.\S+ is not in it"):
        load(model_of(), published, tmp_path, exact=True)
