"""What TensorBoard shows of a run."""

import json

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from igam_d2.engine import Trainer
from igam_d2.engine.figure_hook import choose_records


@pytest.fixture
def train(cfg, digits, tmp_path):
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("digits_lt_train",), ("digits_lt_val",)
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.MODEL.IGAM.REFRESH_PERIOD = 8, 1e-3, 4
    cfg.MODEL.PIXEL_STD = [57.0, 57.0, 57.0]

    def run(vis_period: int) -> tuple[Trainer, float]:
        cfg.VIS_PERIOD, cfg.OUTPUT_DIR = vis_period, str(tmp_path / str(vis_period))
        (tmp_path / str(vis_period)).mkdir()
        torch.manual_seed(0)
        np.random.seed(0)
        trainer = Trainer(cfg)
        trainer.model.vis_period = 0  # Detectron2's own figures of proposals draw colours
        trainer.train()
        return trainer, np.random.random()

    return run


def test_scalars_histograms_and_detections_under_stable_names(train, tmp_path):
    with_figures, without = train(4), train(0)
    events = EventAccumulator(str(tmp_path / "4")).Reload()
    tags = events.Tags()
    scalars = {
        *("bbox/AP", "bbox/AP50", "bbox/APr", "bbox/APc", "bbox/APf", "bbox/AR@300"),
        *("bbox/bias_variance", "bbox/bias_std", "bbox/AP-seven"),
        *("igam/information_mean", "igam/max_margin", "igam/num_classes_seen", "total_loss"),
    }
    assert scalars <= set(tags["scalars"])
    assert {"igam/information_bits", "igam/margin_rad"} <= set(tags["histograms"])
    names = [f"detections/digits_lt_val/{i}" for i in range(4)]
    assert set(names) <= set(tags["images"])
    assert {event.step for event in events.Images(names[0])} == {3, 7}
    image = events.Images(names[0])[0]
    assert (image.width, image.height) == (800, 400)  # ground truth beside detections, enlarged
    for name, weight in without[0].model.state_dict().items():  # drawing leaves no trace
        assert torch.equal(weight, with_figures[0].model.state_dict()[name]), name
    assert with_figures[1] == without[1]


def test_margins_are_left_on_the_disk(train, tmp_path):
    """As the potentials that they are differences of."""
    trainer, _ = train(0)
    lines = [json.loads(line) for line in (tmp_path / "0" / "information.jsonl").open()]
    assert [line["iteration"] for line in lines] == [4, 8]
    potentials = trainer.model.roi_heads.box_predictor.cls_loss.potentials
    known = [u for u in lines[-1]["potentials"] if u is not None]
    assert known == potentials[potentials.isfinite()].tolist() and len(known) > 3
    assert lines[-1]["margin_sign"] == 1


def test_images_with_many_classes_and_few_objects():
    def record(*classes):
        return {"annotations": [{"category_id": c} for c in classes]}

    records = [record(1), record(1, 2), record(*range(13)), record(1, 1, 1), record()]
    assert choose_records(records, 2) == [record(1, 2), record(1)]
