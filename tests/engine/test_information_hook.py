"""The hook against information amounts of all embeddings at once."""

import json
import logging
import math
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.utils.events import EventStorage
from torch import nn

from igam_d2.engine import InformationAmountHook
from igam_d2.engine.information_hook import _margin_summary
from igam_d2.errors import InputError
from igam_d2.functional import information_amount, pairwise_margins
from igam_d2.losses import IGAMLoss
from igam_d2.modeling import CosineOutputLayers

K, D = 10, 8


class Trainer(SimpleNamespace):
    """As much of a trainer as a hook sees, over a model with one predictor."""

    def __init__(self, predictor, max_iter=100, **kwargs):
        model = nn.Module()
        if not isinstance(predictor, CosineOutputLayers):  # a config
            predictor = CosineOutputLayers(predictor, ShapeSpec(channels=16))
        model.box_predictor = predictor
        hook = InformationAmountHook(model, **{"queue_length": 7, "shrinkage": "none", **kwargs})
        storage = EventStorage()
        super().__init__(iter=0, max_iter=max_iter, storage=storage, model=model, hook=hook)
        hook.trainer = self
        self.predictor = model.box_predictor

    def step(self, embeddings=None, classes=None):
        if embeddings is not None:
            self.predictor._instances = (embeddings, classes)
        self.hook.after_step()
        self.iter += 1


def steps(num: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num):
        classes = torch.randint(K - 1, (5,), generator=generator)  # class K - 1 is never seen
        yield torch.randn(5, D, generator=generator) * (1 + classes[:, None]), classes


def expected_information(batches) -> torch.Tensor:
    x = torch.cat([x for x, _ in batches]).double()
    classes = torch.cat([c for _, c in batches])
    out = torch.full((K,), math.nan)
    for k in range(K):
        own = x[classes == k]
        if len(own) >= 2:
            out[k] = information_amount(torch.cov(own.T, correction=0))
    return out


def assert_information(trainer, expected):
    torch.testing.assert_close(
        trainer.predictor.information, expected, equal_nan=True, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("queue_length", [1, 7, 10000])
def test_refresh_gives_the_information_of_the_whole_period(cfg, queue_length):
    trainer = Trainer(cfg, period=20, queue_length=queue_length)
    batches = list(steps(20))
    for batch in batches[:19]:
        trainer.step(*batch)
    assert trainer.predictor.information.isnan().all()
    assert trainer.predictor.cls_loss.potentials.isnan().all()
    trainer.step(*batches[19])
    assert_information(trainer, expected_information(batches))
    assert trainer.predictor.cls_loss.potentials[: K - 1].isfinite().all()

    again = list(steps(20, seed=1))  # the next period starts anew
    for batch in again:
        trainer.step(*batch)
    assert_information(trainer, expected_information(again))


def test_class_without_two_embeddings_keeps_its_information(cfg):
    trainer = Trainer(cfg, period=1)
    first = (torch.randn(12, D), torch.tensor([0, 1, 2] * 4))
    trainer.step(*first)
    before = trainer.predictor.information.clone()
    trainer.step(torch.randn(4, D), torch.tensor([0, 0, 1, K]))
    after = trainer.predictor.information
    assert after[0] != before[0] and after[1] == before[1] and after[2] == before[2]
    assert after[3:].isnan().all()
    trainer.step()  # a period without a single instance
    torch.testing.assert_close(trainer.predictor.information, after, equal_nan=True)


def test_what_is_logged(cfg, tmp_path):
    trainer = Trainer(cfg, period=30, output_dir=str(tmp_path))
    for batch in steps(30):
        trainer.step(*batch)
    latest = {name: value for name, (value, _) in trainer.storage.latest().items()}
    margins = pairwise_margins(trainer.predictor.cls_loss.potentials)
    information = trainer.predictor.information[: K - 1]
    off_diagonal = (K - 1) * (K - 2)
    assert latest["igam/num_classes_seen"] == K - 1
    assert latest["igam/max_margin"] == pytest.approx(margins.max().item(), rel=1e-5)
    assert latest["igam/mean_margin"] == pytest.approx(
        margins.sum().item() / off_diagonal, rel=1e-4
    )
    assert latest["igam/information_min"] == pytest.approx(information.min().item())
    assert latest["igam/information_mean"] == pytest.approx(information.mean().item())
    assert latest["igam/information_max"] == pytest.approx(information.max().item())
    histograms = {h["tag"]: h for h in trainer.storage._histograms}
    assert histograms["igam/information_bits"]["num"] == K - 1
    assert histograms["igam/margin_rad"]["max"] == pytest.approx(margins.max().item(), rel=1e-5)
    line = json.loads((tmp_path / "information.jsonl").read_text())
    assert line["iteration"] == 30 and line["predictor"] == "box_predictor"
    assert line["information"][K - 1] is None and line["count"][K - 1] == 0
    assert sum(line["count"]) == 150


def test_mean_margin_of_a_single_class_and_of_none():
    assert _margin_summary(torch.tensor([0.3])) == (0.0, 0.0)
    assert _margin_summary(torch.tensor([])) == (0.0, 0.0)


def test_nonfinite_embeddings_are_counted_and_warned_about_once(cfg, caplog):
    trainer = Trainer(cfg, period=10)
    clean = []
    with caplog.at_level(logging.WARNING):
        for i, (x, classes) in enumerate(steps(20)):
            x = x.clone()
            if i % 3 == 0:
                x[2, 1] = math.nan if i % 2 else math.inf
            keep = x.isfinite().all(1)
            clean.append((x[keep], classes[keep]))
            trainer.step(x, classes)
    assert_information(trainer, expected_information(clean[10:]))
    (record,) = [r for r in caplog.records if "NaN or Inf" in r.message]
    assert record.message.startswith("4 embeddings of box_predictor")


@pytest.mark.parametrize("reading, warned", [("paper", True), ("mean", False)])
def test_negligible_margins_are_warned_about(cfg, caplog, reading, warned):
    cfg.MODEL.IGAM.NORMALIZATION = reading
    trainer = Trainer(cfg, period=10)
    classes = torch.arange(K - 1)
    for _ in range(20):  # the same embeddings for each class, but for a few per cent of scale
        trainer.step(torch.randn(D) * (1 + 0.01 * classes[:, None]), classes)
    largest = pairwise_margins(trainer.predictor.cls_loss.potentials).max()
    assert (largest < 1e-3) == warned
    assert len([r for r in caplog.records if "largest margin" in r.message]) == int(warned)


@pytest.mark.parametrize("interrupted_at", [1, 4, 9, 10, 13])
def test_saved_and_resumed_equals_uninterrupted(cfg, interrupted_at):
    batches = list(steps(20))
    whole, first = Trainer(cfg, period=10), Trainer(cfg, period=10)
    for batch in batches:
        whole.step(*batch)
    for batch in batches[:interrupted_at]:
        first.step(*batch)
    second = Trainer(cfg, period=10, queue_length=3)  # its length may change between runs
    second.model.load_state_dict(first.model.state_dict())
    second.hook.load_state_dict(first.hook.state_dict())
    second.iter = first.iter
    for batch in batches[interrupted_at:]:
        second.step(*batch)
    assert_information(second, whole.predictor.information)


def test_resuming_with_another_embedding_dim_is_refused(cfg):
    first = Trainer(cfg, period=10)
    cfg.MODEL.IGAM.EMBEDDING_DIM = 4
    second = Trainer(cfg, period=10)
    with pytest.raises(InputError, match=r"shape \(10, 8\), this model's \(10, 4\).*EMBEDDING_DIM"):
        second.hook.load_state_dict(first.hook.state_dict())


def _one_of_two_processes(rank: int, folder: str):
    """Trains on every second batch, none of them in the second period on rank 1; is interrupted."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)

    def trainer():
        transform = Box2BoxTransform(weights=(10, 10, 5, 5))
        predictor = CosineOutputLayers(
            ShapeSpec(channels=16),
            box2box_transform=transform,
            num_classes=K,
            cls_loss=IGAMLoss(K),
            embedding_dim=D,
        )
        return Trainer(predictor, period=10, output_dir=folder)

    batches = list(steps(40))
    first = trainer()
    all_reduce, dist.all_reduce = dist.all_reduce, None  # no collective before the refresh
    for i in range(9):
        first.step(*batches[2 * i + rank])
    dist.all_reduce = all_reduce
    first.step(*batches[18 + rank])
    assert_information(first, expected_information(batches[:20]))
    for i in range(10, 12):  # the checkpoint after iteration 12 holds a part of the second period
        first.step(*(batches[20 + i] if rank == 0 else ()))
    first.hook.collect()
    if rank == 0:  # who writes the checkpoint
        torch.save([first.model.state_dict(), first.hook.state_dict()], f"{folder}/checkpoint")
    dist.barrier()

    second = trainer()
    second.iter = 12
    model, hook = torch.load(f"{folder}/checkpoint", weights_only=True)
    second.model.load_state_dict(model)
    second.hook.load_state_dict(hook)
    for i in range(12, 20):
        second.step(*(batches[20 + i] if rank == 0 else ()))
    assert_information(second, expected_information(batches[30:40]))
    dist.destroy_process_group()


def test_two_processes_give_the_information_of_one_over_all_data(tmp_path):
    mp.spawn(_one_of_two_processes, args=(str(tmp_path),), nprocs=2)
    lines = (tmp_path / "information.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [10, 20]  # the main process alone
