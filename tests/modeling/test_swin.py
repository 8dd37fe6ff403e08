"""Swin as a backbone: its maps, what is trained, activations computed again, and bad configs."""

import sys
import warnings

import pytest
import torch
import torch.distributed as dist
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from igam_d2.config import load_config
from igam_d2.engine.freeze import freeze_detector
from igam_d2.engine.optimizer import build_optimizer
from igam_d2.errors import InputError
from igam_d2.modeling.backbone import SwinTransformer

FPN = [
    *("MODEL.BACKBONE.NAME", "build_swin_fpn_backbone", "MODEL.BACKBONE.FREEZE_AT", "0"),
    *("MODEL.FPN.IN_FEATURES", "['p0', 'p1', 'p2', 'p3']", "MODEL.FPN.OUT_CHANNELS", "8"),
    *("MODEL.RPN.IN_FEATURES", "['p2', 'p6']", "MODEL.ROI_HEADS.IN_FEATURES", "['p2', 'p5']"),
]
PLAIN = [
    *("MODEL.META_ARCHITECTURE", "DETR", "MODEL.DETR.IN_FEATURE", "p3"),
    *("MODEL.BACKBONE.NAME", "build_swin_backbone", "MODEL.SWIN.OUT_FEATURES", "['p3']"),
]
DETR_FPN = [
    *("MODEL.META_ARCHITECTURE", "DETR", "MODEL.DETR.IN_FEATURE", "p5"),
    *("MODEL.BACKBONE.NAME", "build_swin_fpn_backbone", "MODEL.BACKBONE.FREEZE_AT", "0"),
    *("MODEL.FPN.IN_FEATURES", "['p0', 'p1', 'p2', 'p3']"),
]
RESNET_FPN = ["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.FPN.IN_FEATURES"]
TINY = {"embed_dim": 8, "depths": [2, 1, 2, 1], "num_heads": [1, 2, 2, 4], "window_size": 4}


def tiny(seed=0, **kwargs):
    torch.manual_seed(seed)
    return SwinTransformer(**(TINY | {"drop_path_rate": 0.0} | kwargs))


def loss(maps):
    return sum((i + 1) * x.sin().mean() for i, x in enumerate(maps.values()))


@pytest.mark.parametrize("opts", [FPN, [*FPN, "MODEL.FPN.IN_FEATURES", "['p1', 'p2', 'p3']"]])
def test_pyramid(opts):
    small = ["MODEL.SWIN.EMBED_DIM", "12", "MODEL.RPN.IN_FEATURES", "['p3', 'p6']"]
    cfg = load_config("", [*opts, *small, "MODEL.ROI_HEADS.IN_FEATURES", "['p3']"])
    model = build_backbone(cfg)
    maps = model(torch.randn(1, 3, 64, 96))
    first = int(cfg.MODEL.FPN.IN_FEATURES[0][1]) + 2
    assert list(maps) == [f"p{i}" for i in range(first, 7)]
    for name, x in maps.items():
        stride = 2 ** int(name[1])
        assert x.shape == (1, 8, -(-64 // stride), -(-96 // stride))
        assert model.output_shape()[name] == ShapeSpec(channels=8, stride=stride)
    assert model.size_divisibility == 32
    loss(maps).backward()
    assert all(p.grad is not None for p in model.parameters())  # nothing that is never trained


def test_plain_with_some_stages_has_nothing_behind_the_last():
    cfg = load_config("", [*PLAIN, "MODEL.SWIN.EMBED_DIM", "12", "MODEL.BACKBONE.FREEZE_AT", "0"])
    model = build_backbone(cfg)
    assert (
        model(torch.randn(1, 3, 50, 70))["p3"].shape == (1, 96, 2, 3)
        and model.size_divisibility == 0
    )
    model = tiny(out_features=["p2", "p1"], in_channels=1)
    maps = model(torch.randn(2, 1, 37, 64))
    assert {name: x.shape[1:] for name, x in maps.items()} == {"p1": (16, 5, 8), "p2": (32, 3, 4)}
    loss(maps).backward()
    assert all(p.grad is not None for p in model.parameters()) and len(model.layers) == 3


@pytest.mark.parametrize("freeze_at", [0, 1])
def test_activations_computed_again_give_the_same_gradients(freeze_at):
    """With drop path, after a patch embedding that needs no gradient, and with two images of
    different sizes before one backward pass."""
    gradients = []
    for use_checkpoint in (False, True):
        model = tiny(drop_path_rate=0.5, use_checkpoint=use_checkpoint, freeze_at=freeze_at)
        torch.manual_seed(1)
        images = torch.randn(3, 3, 40, 64), torch.randn(2, 3, 32, 36)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            saved = []
            with torch.autograd.graph.saved_tensors_hooks(
                lambda x, saved=saved: saved.append(x.numel()) or x, lambda x: x
            ):
                total = sum(loss(model(x)) for x in images)
            total.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()} | {"": total})
        names, numbers = list(model.state_dict()), sum(saved)
        gradients[-1]["saved"] = torch.tensor(numbers)
    assert names == list(tiny().state_dict())
    plain, again = gradients
    assert again.pop("saved") < plain.pop("saved") / 3
    for name, gradient in plain.items():
        assert (gradient is None) == (name.startswith("patch_embed") and freeze_at == 1), name
        if gradient is not None:
            torch.testing.assert_close(again[name], gradient, msg=name)


def test_activations_computed_again_with_several_processes(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/s", rank=0, world_size=1)
    try:
        model = tiny(use_checkpoint=True, freeze_at=2)
        ddp = DistributedDataParallel(model, broadcast_buffers=False)
        for _ in range(2):
            loss(ddp(torch.randn(1, 3, 32, 32))).backward()
    finally:
        dist.destroy_process_group()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_frozen_stages_are_the_same_in_training():
    model = tiny(drop_path_rate=0.5, freeze_at=3, out_features=["p1", "p3"]).train()
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    stages = {name.split(".")[1] for name in frozen if name.startswith("layers")}
    assert (
        stages == {"0", "1"}
        and "patch_embed.proj.weight" in frozen
        and "norm1.weight" not in frozen
    )
    x = torch.randn(4, 3, 64, 64)
    trained = model(x)
    tested = model.eval()(x)
    torch.testing.assert_close(trained["p1"], tested["p1"])
    assert not torch.allclose(trained["p3"], tested["p3"])
    assert model.train().layers[2].training


def test_a_second_stage_sees_it_without_drop_path():
    model = freeze_detector(nn.Sequential(tiny(drop_path_rate=0.9))).train()
    x = torch.randn(4, 3, 64, 64)
    trained, tested = model(x), model.eval()(x)
    for name in trained:
        torch.testing.assert_close(trained[name], tested[name])


def test_groups_of_the_usual_recipe():
    opts = ["SOLVER.OPTIMIZER", "AdamW", "SOLVER.WEIGHT_DECAY", "0.05", "SOLVER.BASE_LR", "0.0001"]
    opts += ["SOLVER.NO_DECAY", "['relative_position_bias_table', 'absolute_pos_embed']"]
    model = nn.ModuleDict({"backbone": tiny()})
    optimizer = build_optimizer(load_config("", [*opts, "SOLVER.BACKBONE_LR_FACTOR", "0.1"]), model)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    without = {name for name, p in model.named_parameters() if decay[id(p)] == 0}
    expected = ("norm", "relative_position_bias_table")  # as mmdetection's custom_keys, by name
    assert without == {
        n for n, _ in model.named_parameters() if any(part in n for part in expected)
    }
    assert {g["lr"] for g in optimizer.param_groups} == {1e-5} and len(optimizer.param_groups) == 2


def test_drop_path_without_timm_names_the_extra(monkeypatch):
    for name in ("timm", "timm.models", "timm.models.layers"):
        monkeypatch.setitem(sys.modules, name, None)
    tiny()
    with pytest.raises(InputError, match=r"DROP_PATH_RATE is 0.1.*igam_d2\[swin\].*0.0"):
        tiny(drop_path_rate=0.1)


def test_importing_it_says_nothing(recwarn):
    sys.modules.pop("timm.models.layers", None)
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # not once in a process, which may be over
    try:
        tiny(drop_path_rate=0.1)
    finally:
        torch.set_warn_always(before)
    assert not [w for w in recwarn if "timm" in str(w.message) or "meshgrid" in str(w.message)]


@pytest.mark.parametrize(
    "opts, parts",
    [
        (["MODEL.BACKBONE.NAME", "build_swin"], ["'build_swin'", "did you mean", "build_resnet"]),
        (["MODEL.META_ARCHITECTURE", "GeneralizedRCN"], ["did you mean 'GeneralizedRCNN'"]),
        ([*FPN, "MODEL.FPN.IN_FEATURES", "['res2', 'res3']"], ["['res2', 'res3']", "p0, p1"]),
        ([*FPN, "MODEL.FPN.IN_FEATURES", "[]"], ["MODEL.FPN.IN_FEATURES is []"]),
        ([*FPN, "MODEL.FPN.IN_FEATURES", "['p0', 'p1']"], ["neighbouring", "up to the last"]),
        ([*FPN, "MODEL.SWIN.OUT_FEATURES", "['p3']"], ["OUT_FEATURES is p3:"]),
        ([*FPN, "MODEL.RPN.IN_FEATURES", "['res4']"], ["RPN.IN_FEATURES is ['res4']", "p2, p3"]),
        ([*PLAIN, "MODEL.DETR.IN_FEATURE", "res5"], ["DETR.IN_FEATURE is ['res5']", "has p3"]),
        ([*PLAIN, "MODEL.SWIN.OUT_FEATURES", "['p0', 'p3']"], ["has p0", "no gradient"]),
        ([*PLAIN, "MODEL.SWIN.OUT_FEATURES", "['p4']"], ["['p4']", "the stages are p0, p1, p2"]),
        ([*DETR_FPN, "MODEL.DETR.IN_FEATURE", "p3"], ["p3 alone", "FIND_UNUSED_PARAMETERS"]),
        (DETR_FPN, ["p5 alone", "set it to build_swin_backbone", "OUT_FEATURES ['p3']"]),
        (
            [*DETR_FPN, *RESNET_FPN, "['res4', 'res5']"],
            ["RESNETS.OUT_FEATURES ['res5']", "build_resnet_backbone"],
        ),
        ([*FPN, "MODEL.SWIN.DEPTHS", "[2, 2]"], ["DEPTHS has 2 stages and NUM_HEADS 4"]),
        ([*FPN, "MODEL.SWIN.DEPTHS", "[2, 2, 0, 2]"], ["DEPTHS is [2, 2, 0, 2]", "above 0"]),
        ([*FPN, "MODEL.SWIN.EMBED_DIM", "100"], ["stage p0 has 100 channels", "3 heads"]),
        ([*FPN, "MODEL.SWIN.DROP_PATH_RATE", "1.0"], ["DROP_PATH_RATE is 1.0", "below 1"]),
        ([*FPN, "MODEL.BACKBONE.FREEZE_AT", "6"], ["FREEZE_AT is 6", "to 5"]),
    ],
)
def test_bad_values_get_one_sentence(opts, parts):
    with pytest.raises(InputError) as info:
        load_config("", opts)
    message = str(info.value)
    assert all(part in message for part in parts) and "\n" not in message, message


@pytest.mark.parametrize(
    "opts, number",
    [
        (["MODEL.FPN.IN_FEATURES", "['p3']"], 0),  # a pyramid of one level, all of it used
        (["SOLVER.FIND_UNUSED_PARAMETERS", "True"], 18),
    ],
)
def test_a_pyramid_under_detr_where_unused_layers_do_no_harm(opts, number):
    small = ["MODEL.SWIN.EMBED_DIM", "12", "MODEL.FPN.OUT_CHANNELS", "8"]
    model = build_backbone(load_config("", [*DETR_FPN, *small, *opts]))
    model(torch.randn(1, 3, 64, 64))["p5"].sin().mean().backward()
    assert sum(p.grad is None for p in model.parameters()) == number
