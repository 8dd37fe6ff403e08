"""The second stage: only the parameters of the loss are trained, over the detector of a test."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from igam_d2.engine import Checkpointer, Trainer
from igam_d2.engine.freeze import freeze_detector
from igam_d2.errors import InputError
from igam_d2.losses import CLS_LOSS_REGISTRY
from igam_d2.losses.softmax_ce import SoftmaxCELoss


class OffsetLoss(SoftmaxCELoss):
    """Softmax over scores plus an offset that is trained."""

    second_stage = True

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.offset = nn.Parameter(torch.zeros(num_classes + 1))
        self.drop = nn.Dropout(0.0)

    def forward(self, scores, gt_classes, **kwargs):
        return super().forward(scores + self.drop(self.offset), gt_classes, **kwargs)

    def predict_probs(self, scores, *, embeddings=None):
        return super().predict_probs(scores + self.offset)


@pytest.fixture
def second_stage(cfg, monkeypatch):
    monkeypatch.setitem(CLS_LOSS_REGISTRY._obj_map, "OffsetLoss", OffsetLoss)
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.OffsetLoss = CfgNode()
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = "OffsetLoss"
    cfg.MODEL.PIXEL_STD = [57.0, 57.0, 57.0]
    return cfg


def first_stage(cfg, folder) -> dict[str, torch.Tensor]:
    """Saves a detector as the weights to start from; its batch norms have seen something."""
    first = cfg.clone()
    first.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = "SoftmaxCELoss"
    torch.manual_seed(0)  # some random detectors leave a later stage nothing to learn from
    model = build_model(first)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2), module.bias.data.normal_()
    Checkpointer(model, str(folder)).save("first")
    cfg.MODEL.WEIGHTS = str(folder / "first.pth")
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("heads", ["IGAMROIHeads", "IGAMCascadeROIHeads"])
def test_only_the_loss_changes(second_stage, digits, tmp_path, monkeypatch, heads):
    cfg = second_stage
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("digits_lt_train",), ()
    cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR = 3, str(tmp_path / "run")
    cfg.MODEL.ROI_HEADS.NAME = heads
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    before = first_stage(cfg, tmp_path)
    trainer = Trainer(cfg)
    incompatible = []
    load_model = trainer.checkpointer._load_model
    monkeypatch.setattr(
        trainer.checkpointer, "_load_model", lambda c: incompatible.append(load_model(c))
    )
    trainer.resume_or_load(resume=False)
    assert incompatible[0].unexpected_keys == []
    model = trainer.model
    assert list(before) == [key for key in model.state_dict() if "offset" not in key]
    optimized = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    losses = [module for module in model.modules() if isinstance(module, OffsetLoss)]
    assert {id(p) for p in optimized} == {id(loss.offset) for loss in losses}
    trainer.train()
    for key, value in trainer.model.state_dict().items():
        if "offset" in key:
            assert value.abs().max() > 0
        elif not key.endswith("information"):
            assert torch.equal(value, before[key]), key

    # What was trained is a detector like any other: it resumes, and is evaluated
    resumed = Trainer(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 3
    plain = build_model(cfg).eval()
    Checkpointer(plain, exact=True).load(str(tmp_path / "run/model_final.pth"))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        frozen, expected = (m.backbone(x) for m in (resumed.model.eval(), plain))
    torch.testing.assert_close(frozen, expected)


def test_it_starts_from_a_whole_detector(second_stage, tmp_path):
    model = Trainer.build_model(second_stage)
    with pytest.raises(InputError, match=r"OffsetLoss trains over a detector.*MODEL.WEIGHTS"):
        Checkpointer(model).resume_or_load("", resume=False)
    state = first_stage(second_stage, tmp_path)
    torch.save({"model": {k: v for k, v in state.items() if "bottom_up" in k}}, tmp_path / "b.pth")
    with pytest.raises(InputError, match=r"is not in it .* OffsetLoss needs those of a whole"):
        Checkpointer(model).resume_or_load(str(tmp_path / "b.pth"), resume=False)
    state["roi_heads.box_predictor.cls_score.bias"] = None
    torch.save({"model": {k: v for k, v in state.items() if v is not None}}, tmp_path / "c.pth")
    with pytest.raises(
        InputError, match=r"classifier without bias.*OffsetLoss has a linear classifier"
    ):
        Checkpointer(model).resume_or_load(str(tmp_path / "c.pth"), resume=False)
    Checkpointer(model).resume_or_load(second_stage.MODEL.WEIGHTS, resume=False)


def test_what_is_frozen_is_the_detector_that_a_test_sees():
    class DropPath(nn.Module):
        drop_prob = 0.5

        def forward(self, x):
            return x * (torch.rand(len(x), 1, 1, 1) > self.drop_prob) if self.training else x

    loss = OffsetLoss(4)
    loss.drop.p = 0.25
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), DropPath())
    net[1].running_mean.normal_()
    model = nn.ModuleDict({"net": net, "loss": loss})
    x = torch.randn(8, 3, 5, 5)
    expected, keys = net.eval()(x), list(model.state_dict())
    frozen = freeze_detector(model).train()
    assert isinstance(frozen["net"][1], FrozenBatchNorm2d) and list(frozen.state_dict()) == keys
    torch.testing.assert_close(frozen["net"](x), expected)
    assert [name for name, p in frozen.named_parameters() if p.requires_grad] == ["loss.offset"]
    assert frozen["loss"].drop.p == 0.25


def _steps(rank: int, cfg, file: str):
    """Three steps, in which rank 1 has an image without instances."""
    CLS_LOSS_REGISTRY._obj_map["OffsetLoss"] = OffsetLoss
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    ddp = DistributedDataParallel(model, broadcast_buffers=False)
    truth = Instances((64, 64))
    boxes = [[4.0, 4.0, 30.0, 40.0]] if rank == 0 else []
    truth.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    truth.gt_classes = torch.tensor([3] * len(boxes), dtype=torch.int64)
    image = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "height": 64, "width": 64}
    for _ in range(3):
        with EventStorage():
            losses = ddp([{**image, "instances": truth}])
        ddp.zero_grad()
        sum(losses.values()).backward()
        gradient = model.roi_heads.box_predictor.cls_loss.offset.grad
        everywhere = [torch.empty_like(gradient) for _ in range(2)]
        dist.all_gather(everywhere, gradient)
        assert gradient.abs().sum() > 0 and torch.equal(*everywhere)
    dist.destroy_process_group()


def test_several_processes_train_it(second_stage, tmp_path):
    mp.spawn(_steps, args=(second_stage, str(tmp_path / "store")), nprocs=2)
