"""Optimisers against Detectron2's; groups; fused kernels, with a gradient scaler and resumed."""

import copy
from types import SimpleNamespace

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer as build_detectron2s
from torch import nn

from igam_d2.config import load_config
from igam_d2.engine.clip_hook import GradientClippingHook
from igam_d2.engine.optimizer import build_optimizer
from igam_d2.errors import InputError

STEPS = 4


class Net(nn.Module):
    """Convolution, norm and linear layer; backbone and the rest."""

    def __init__(self):
        super().__init__()
        convs = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 1)
        self.backbone = nn.Sequential(convs[0], nn.BatchNorm2d(4), convs[1])
        self.head = nn.Linear(4, 2)
        self.head.relative_position_bias_table = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.head(self.backbone(x).mean((2, 3))) + self.head.relative_position_bias_table


def config(cfg, **solver):
    cfg = cfg.clone()
    clip = solver.pop("CLIP_GRADIENTS", {})
    cfg.SOLVER.update(solver), cfg.SOLVER.CLIP_GRADIENTS.update(clip)
    return cfg


def losses(model, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 3, 6, 6, generator=generator)
    return model(x).square().mean() * 30


def train(model, optimizer, steps=range(STEPS), scaler=None, hook=None, overflow_in=None):
    """As Detectron2's trainers do; the gradients of the step `overflow_in` are infinite."""
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    for step in steps:
        optimizer.zero_grad()
        scaler.scale(losses(model, step)).backward()
        if step == overflow_in:
            model.head.weight.grad.fill_(torch.inf)
        if hook is not None:
            hook.trainer = SimpleNamespace(optimizer=optimizer, grad_scaler=scaler)
            hook.after_backward()
        scaler.step(optimizer), scaler.update()
    return model


def assert_same(model, other, **tolerance):
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=name, **tolerance)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net()


@pytest.mark.parametrize(
    "solver",
    [
        {},
        {"BIAS_LR_FACTOR": 2.0, "WEIGHT_DECAY_BIAS": 0.0, "WEIGHT_DECAY_NORM": 0.1},
        {"NESTEROV": True, "WEIGHT_DECAY": 0.1},
    ],
)
def test_sgd_is_detectron2s(cfg, model, solver):
    cfg = config(cfg, **solver)
    other = copy.deepcopy(model)
    ours, theirs = build_optimizer(cfg, model), build_detectron2s(cfg, other)
    assert [len(g["params"]) for g in ours.param_groups] == [
        len(g["params"]) for g in theirs.param_groups
    ]
    assert_same(train(model, ours), train(other, theirs), rtol=0, atol=0)


def test_groups_of_a_detector(cfg):
    names = ["backbone.fpn_lateral3.bias", "roi_heads.box_head.fc1.weight", "backbone.bottom_up"]
    cfg = config(cfg, OPTIMIZER="AdamW", BACKBONE_LR_FACTOR=0.1, BIAS_LR_FACTOR=2.0)
    cfg = config(cfg, WEIGHT_DECAY=0.05, NO_DECAY=["bias"], BASE_LR=1e-3)
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    found = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    assert len(found) == sum(1 for p in model.parameters() if p.requires_grad)
    for name, p in model.named_parameters():
        group, bias = found[id(p)], name.endswith(".bias")
        rate = 1e-3 * (0.1 if name.startswith("backbone.") else 1) * (2 if bias else 1)
        assert group["lr"] == pytest.approx(rate), name
        assert group["weight_decay"] == (0 if bias or ".norm." in name else 0.05), name
        names = [part for part in names if not name.startswith(part)]
    assert names == [] and optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_no_decay_of_a_name_that_is_not_there_is_said(cfg, model, caplog):
    cfg = config(cfg, OPTIMIZER="AdamW", NO_DECAY=["relative_position_bias_table", "pos_embed"])
    found = {id(p): g for g in build_optimizer(cfg, model).param_groups for p in g["params"]}
    assert found[id(model.head.relative_position_bias_table)]["weight_decay"] == 0
    assert found[id(model.head.weight)]["weight_decay"] == cfg.SOLVER.WEIGHT_DECAY
    assert "NO_DECAY has 'pos_embed'," in caplog.text


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize("overflow_in", [None, 0, 2])
def test_fused_is_the_same_also_where_a_scaler_skips_a_step(cfg, model, kind, overflow_in):
    cfg = config(cfg, OPTIMIZER=kind, WEIGHT_DECAY=0.1)
    plain, fused, skipped = model, copy.deepcopy(model), copy.deepcopy(model)
    steps = [step for step in range(STEPS) if step != overflow_in]
    train(plain, build_optimizer(cfg, plain), steps)
    torch.use_deterministic_algorithms(True)  # memory that nobody wrote to is NaN
    try:
        for other, is_fused in ((fused, True), (skipped, False)):
            optimizer = build_optimizer(config(cfg, FUSED=is_fused), other)
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
            train(other, optimizer, scaler=scaler, overflow_in=overflow_in)
            assert_same(plain, other)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize("before", [True, False])
def test_switches_may_change_when_a_run_is_resumed(cfg, model, kind, before):
    """Fused or not, and channels last or not."""
    cfg = config(cfg, OPTIMIZER=kind)
    whole = copy.deepcopy(model)
    train(whole, build_optimizer(cfg, whole))
    formats = {before: torch.channels_last, not before: torch.contiguous_format}
    first = model.to(memory_format=formats[True])
    interrupted = build_optimizer(config(cfg, FUSED=before), first)
    train(first, interrupted, range(2))
    second = copy.deepcopy(first).to(memory_format=formats[False])
    resumed = build_optimizer(config(cfg, FUSED=not before), second)
    resumed.load_state_dict(copy.deepcopy(interrupted.state_dict()))
    train(second, resumed, range(2, STEPS), scaler=torch.amp.GradScaler("cpu"))
    assert_same(whole, second)


@pytest.mark.parametrize("before", [True, False])
def test_fused_momentum_that_is_not_in_what_is_resumed_is_zero(cfg, model, before):
    """That of a parameter without a gradient yet; a scaler skips the step that would make it."""
    cfg = config(cfg, WEIGHT_DECAY=0.1)
    saved = build_optimizer(config(cfg, FUSED=before), copy.deepcopy(model)).state_dict()
    saved["state"].pop(0, None)
    resumed, plain = copy.deepcopy(model), model
    train(plain, build_optimizer(cfg, plain), range(1, STEPS))
    optimizer = build_optimizer(config(cfg, FUSED=True), resumed)
    torch.use_deterministic_algorithms(True)  # memory that nobody wrote to is NaN
    try:
        optimizer.load_state_dict(saved)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        train(resumed, optimizer, scaler=scaler, overflow_in=0)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same(plain, resumed)


@pytest.mark.parametrize("solver", [{"OPTIMIZER": "AdamW"}, {"BACKBONE_LR_FACTOR": 0.1}])
def test_state_of_another_optimizer_is_refused(cfg, model, solver):
    saved = build_optimizer(cfg, model).state_dict()
    with pytest.raises(InputError, match=r"trained with SGD over 6 \+ 2 .*set SOLVER.OPTIMIZER"):
        build_optimizer(config(cfg, **solver), model).load_state_dict(saved)


@pytest.mark.parametrize("clip_type", ["value", "norm", "full_model"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("overflow_in", [None, 0])
def test_gradients_are_clipped_as_if_there_were_no_scaler(
    cfg, model, clip_type, fused, overflow_in
):
    clip = {"ENABLED": True, "CLIP_TYPE": clip_type, "CLIP_VALUE": 0.1}
    cfg = config(cfg, BASE_LR=0.1, FUSED=fused, CLIP_GRADIENTS=clip)
    reference, unclipped = copy.deepcopy(model), copy.deepcopy(model)
    steps = [step for step in range(STEPS) if step != overflow_in]
    if clip_type == "full_model":
        o = build_optimizer(config(cfg, FUSED=False), reference)
        for step in steps:
            o.zero_grad()
            losses(reference, step).backward()
            everything = torch.cat([p.grad.flatten() for p in reference.parameters()])
            assert everything.norm() > 0.1  # else there is nothing to clip
            for p in reference.parameters():
                p.grad *= 0.1 / everything.norm()
            o.step()
    else:
        train(reference, build_detectron2s(cfg, reference), steps)
    hook = GradientClippingHook(clip_type, 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    train(model, build_optimizer(cfg, model), scaler=scaler, hook=hook, overflow_in=overflow_in)
    assert_same(reference, model, rtol=1e-5, atol=1e-6)
    train(unclipped, build_optimizer(cfg, unclipped))
    assert (unclipped.head.weight - model.head.weight).abs().max() > 1e-3


@pytest.mark.parametrize(
    "opts, parts",
    [
        (["SOLVER.OPTIMIZER", "Adam"], ["'Adam'", "did you mean 'AdamW'", "SGD, AdamW"]),
        (["SOLVER.AMP.DTYPE", "float32"], ["AMP.DTYPE is 'float32'", "float16, bfloat16"]),
        (["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full"], ["CLIP_TYPE is 'full'", "full_model"]),
        (
            ["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.0"],
            ["CLIP_VALUE is 0.0", "above 0"],
        ),
        (["SOLVER.BACKBONE_LR_FACTOR", "-0.1"], ["BACKBONE_LR_FACTOR is -0.1", "at least 0"]),
        (["SOLVER.NO_DECAY", "['head.bias']"], ["NO_DECAY is ['head.bias']", "last parts"]),
        (["SOLVER.FUSED", "True", "MODEL.DEVICE", "mps"], ["SOLVER.FUSED", "'mps'", "False"]),
    ],
)
def test_bad_values_get_one_sentence(opts, parts):
    with pytest.raises(InputError) as info:
        load_config("", opts)
    assert all(part in str(info.value) for part in parts) and "\n" not in str(info.value)
