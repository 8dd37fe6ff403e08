"""The switches for throughput: together, and each for what it may not change."""

import copy
import subprocess
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import nn

from igam_d2.engine import Trainer
from igam_d2.engine import trainer as trainer_module
from igam_d2.engine.clip_hook import GradientClippingHook


@pytest.fixture
def everything(cfg, digits, tmp_path):
    """All of them, on the tiny detector; three iterations, with an evaluation after the second."""
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("digits_lt_train",), ("digits_lt_val",)
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE, cfg.SOLVER.FUSED = True, "bfloat16", True
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.MODEL.CHANNELS_LAST = cfg.CUDNN_BENCHMARK = True
    cfg.DATALOADER.PERSISTENT_WORKERS, cfg.DATALOADER.NUM_WORKERS = True, 1
    cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD, cfg.SOLVER.CHECKPOINT_PERIOD = 3, 2, 2
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.freeze()
    return cfg


class Killed(Exception):
    pass


class KillAfter(HookBase):
    def __init__(self, iteration):
        self.iteration = iteration

    def after_step(self):
        if self.trainer.iter + 1 == self.iteration:
            raise Killed


NODES = {
    "ENABLED": "SOLVER.AMP",
    "FUSED": "SOLVER",
    "CHANNELS_LAST": "MODEL",
    "NUM_WORKERS": "DATALOADER",
    "EVAL_PERIOD": "TEST",
}


def start(cfg, folder=None, **values):
    cfg = cfg.clone()
    cfg.defrost()
    opts = [part for key, value in values.items() for part in (f"{NODES[key]}.{key}", value)]
    cfg.merge_from_list([*opts, "OUTPUT_DIR", str(folder or cfg.OUTPUT_DIR)])
    seed_all_rng(3)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    return trainer


def assert_same(trainer, other, **tolerance):
    expected = other.model.state_dict()
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(
            value, expected[name], equal_nan=True, msg=name, check_stride=False, **tolerance
        )


def test_all_of_them_train_evaluate_and_resume(everything, tmp_path, caplog, monkeypatch):
    built = []
    build = Trainer.build_test_loader.__func__
    monkeypatch.setattr(
        Trainer, "build_test_loader", classmethod(lambda *args: built.append(1) or build(*args))
    )
    whole = start(everything, tmp_path / "whole")
    whole.train()
    assert "trains in float32" in caplog.text and type(whole._trainer) is SimpleTrainer
    assert len(built) == 1  # for two evaluations
    killed = start(everything, tmp_path / "killed")
    killed.register_hooks([KillAfter(2)])
    with pytest.raises(Killed):
        killed.train()
    resumed = start(everything, tmp_path / "killed")
    assert resumed.start_iter == 2
    resumed.train()
    assert_same(resumed, whole, rtol=0, atol=0)
    weight = whole.model.backbone.bottom_up.res3[0].conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert whole.optimizer.state[weight]["momentum_buffer"].stride() == weight.stride()


def test_they_train_what_is_trained_without_them(everything, tmp_path):
    every = start(everything, tmp_path / "every", EVAL_PERIOD=0)
    every.train()
    none = {"ENABLED": False, "FUSED": False, "CHANNELS_LAST": False, "NUM_WORKERS": 0}
    plain = start(everything, tmp_path / "plain", EVAL_PERIOD=0, **none)
    plain.train()
    assert_same(every, plain, rtol=1e-3, atol=1e-5)


def test_kept_test_loader_gives_every_image_every_time(everything):
    trainer = start(everything)
    build = trainer.test.__self__.build_test_loader
    loader, plain = (f(trainer.cfg, "digits_lt_val") for f in (build, Trainer.build_test_loader))
    assert build(trainer.cfg, "digits_lt_val") is loader
    images, workers = [], set()
    for _ in range(2):
        for pid in workers:  # a scheduler that signals every process of a job
            subprocess.run(["kill", "-TERM", str(pid)], check=True)
        images.append([record["image_id"] for batch in loader for record in batch])
        workers |= {worker.pid for worker in loader._iterator._workers}
    expected = [record["image_id"] for batch in plain for record in batch]
    assert images == [expected, expected] and len(workers) == 1
    (worker,) = loader._iterator._workers
    del loader
    trainer._test_loaders.clear()  # as after a training
    assert not worker.is_alive()
    without = start(everything, NUM_WORKERS=0)
    build = without.test.__self__.build_test_loader
    assert build(without.cfg, "digits_lt_val").num_workers == 0


def test_channels_last_changes_no_output(cfg):
    cfg.MODEL.PIXEL_STD = [57.0, 57.0, 57.0]
    model = Trainer.build_model(cfg).eval()
    cfg.MODEL.CHANNELS_LAST = True
    other = Trainer.build_model(cfg).eval()
    other.load_state_dict(model.state_dict())
    weight = other.backbone.fpn_lateral3.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected, got = model.backbone(x), other.backbone(x)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name])


@pytest.mark.parametrize("enabled", [True, False])
def test_mixed_precision_may_change_when_a_run_is_resumed(enabled):
    """With a scaler (float16) or without (bfloat16), from a run with another precision."""
    parameter = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(parameter.parameters(), lr=0.1)

    def trainer(scaler=None):
        this = Trainer.__new__(Trainer)
        this._hooks, this.iter = [], 3
        this._trainer = (
            SimpleTrainer(parameter, [], optimizer)
            if scaler is None
            else AMPTrainer(parameter, [], optimizer, grad_scaler=scaler)
        )
        return this

    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    others = [trainer(), trainer(scaler), trainer(torch.amp.GradScaler("cpu", enabled=False))]
    for other in others:
        saved = copy.deepcopy(other.state_dict())
        this = trainer(torch.amp.GradScaler("cpu", init_scale=8.0, enabled=enabled))
        this.load_state_dict(saved)
        expected = {True: 64.0 if other is others[1] else 8.0, False: 1.0}[enabled]
        assert this._trainer.grad_scaler.get_scale() == expected and this.iter == 3
        trainer().load_state_dict(saved)


class OnGpu(nn.Linear):
    """As far as :func:`build_steps` looks."""

    def parameters(self, recurse=True):
        yield SimpleNamespace(device=torch.device("cuda"))


def test_mixed_precision_on_a_gpu_is_the_one_that_is_named(everything, monkeypatch):
    scalers = []
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *args, **kw: scalers.append((args, kw)))
    monkeypatch.setattr(trainer_module, "AMPTrainer", lambda *args, **kw: kw)
    everything.defrost()
    everything.SOLVER.CLIP_GRADIENTS.ENABLED = False
    for name in ("float16", "bfloat16"):
        everything.SOLVER.AMP.DTYPE = name
        steps = trainer_module.build_steps(everything, OnGpu(2, 2), [], None)
        assert steps["precision"] == getattr(torch, name)
        assert scalers.pop() == (("cuda",), {"enabled": name == "float16"})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_step_in_mixed_precision_is_clipped(everything, monkeypatch, dtype):
    """Detectron2's own, with the autocast of the CPU in the place of the GPU's."""
    everything.defrost()
    everything.MODEL.PIXEL_STD = [57.0, 57.0, 57.0]  # else float16 is left by the untrained net
    trainer = start(everything)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda.amp, "autocast", lambda dtype: torch.autocast("cpu", dtype))
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0, enabled=dtype == torch.float16)
    parts = (trainer.model, trainer.data_loader, trainer.optimizer)
    steps = AMPTrainer(*parts, grad_scaler=scaler, precision=dtype)
    (hook,) = trainer._trainer._hooks
    steps.register_hooks([hook])
    head = trainer.model.roi_heads.box_head.fc1
    seen = []
    head.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    for _ in range(2):
        before = head.weight.detach().clone()
        with EventStorage():
            steps.run_step()
        norm = torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm()
        assert norm == pytest.approx(1.0, rel=1e-3)  # of gradients that are scaled no more
        assert not torch.equal(before, head.weight) and head.weight.isfinite().all()
    assert seen == [dtype, dtype]


def test_clipping_is_told_of_the_backward_pass(everything):
    trainer = start(everything)
    hooks = [type(hook) for hook in trainer._trainer._hooks]
    assert hooks == [GradientClippingHook]  # not with those of the trainer, which are not told
    trainer.model.requires_grad_(True)
    for p in trainer.model.parameters():
        p.grad = torch.ones_like(p)
    trainer._trainer.after_backward()
    norm = torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm()
    assert norm == pytest.approx(1.0, rel=1e-3)
