"""Real training steps against a slow reference, and with processes that have nothing to learn."""

import json
import math

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import HookBase
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from igam_d2.engine import Trainer

EPOCH, NUM_EPOCHS = 6, 3


class RememberEverything(HookBase):
    """Stores all embeddings of an epoch, and at its end the information amounts of eq. (2)."""

    def __init__(self, predictor):
        self.predictor, self.seen, self.expected = predictor, [], []
        self.information = torch.full((10,), math.nan, dtype=torch.float64)

    def after_step(self):
        self.seen.append(self.predictor._instances)
        if (self.trainer.iter + 1) % EPOCH:
            return
        x = torch.cat([x for x, _ in self.seen]).double()
        classes = torch.cat([c for _, c in self.seen])
        for k in range(10):
            own = x[classes == k]
            if len(own) > 1:
                centred = own - own.mean(0)
                covariance = centred.T @ centred / len(own)
                determinant = torch.linalg.det(torch.eye(x.shape[1]) + covariance)
                self.information[k] = 0.5 * determinant.log2()
        self.expected.append(self.information.clone())
        self.seen = []


def test_several_epochs_equal_all_embeddings_of_each_at_once(cfg, digits, tmp_path):
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("digits_lt_train",), ()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = EPOCH * NUM_EPOCHS, 4
    cfg.SOLVER.BASE_LR = 1e-3
    cfg.MODEL.IGAM.SHRINKAGE = "none"
    cfg.OUTPUT_DIR = str(tmp_path)
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    reference = RememberEverything(trainer.model.roi_heads.box_predictor)
    trainer.register_hooks([reference])
    trainer._hooks.insert(0, trainer._hooks.pop())  # ahead of the one that takes them away
    trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "information.jsonl").open()]
    assert len(lines) == len(reference.expected) == NUM_EPOCHS
    for line, expected in zip(lines, reference.expected, strict=True):
        got = torch.tensor([b if b is not None else math.nan for b in line["information"]])
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert not torch.equal(reference.expected[0], reference.expected[1])


def _step_without_rois(rank: int, cfg, file: str):
    """Three steps in which rank 1 has an image without instances, and no proposal at all."""
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = build_model(cfg)
    if rank == 1:
        model.proposal_generator.post_nms_topk = {True: 0, False: 0}
    ddp = DistributedDataParallel(model, broadcast_buffers=False)
    truth = Instances((64, 64))
    boxes = [[4.0, 4.0, 30.0, 40.0]] if rank == 0 else []
    truth.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    truth.gt_classes = torch.tensor([3] * len(boxes), dtype=torch.int64)
    image = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "height": 64, "width": 64}
    for _ in range(3):
        with EventStorage():
            losses = ddp([{**image, "instances": truth}])
        assert all(loss.isfinite() for loss in losses.values())
        if rank == 1:
            assert losses["loss_cls"] == 0
        ddp.zero_grad()
        sum(losses.values()).backward()
        instances = model.roi_heads.box_predictor.take_instances()
        assert (instances is None) == (rank == 1)
        weight = model.roi_heads.box_predictor.cls_score.weight.grad
        everywhere = [torch.empty_like(weight) for _ in range(2)]
        dist.all_gather(everywhere, weight)
        assert weight.abs().sum() > 0 and torch.equal(*everywhere)
    dist.destroy_process_group()


def test_a_process_without_a_single_roi_does_not_hang(cfg, tmp_path):
    cfg.MODEL.PIXEL_STD = [50.0, 50.0, 50.0]
    mp.spawn(_step_without_rois, args=(cfg, str(tmp_path / "store")), nprocs=2)
