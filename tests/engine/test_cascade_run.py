"""A cascade's three stages in a real run: information amounts, logs, checkpoint and resume."""

import json
import shutil

import pytest
import torch

from igam_d2.engine import Trainer

STAGES = [f"roi_heads.box_predictor.{k}" for k in range(3)]


@pytest.fixture
def cascade(cfg, digits, tmp_path):
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("digits_lt_train",), ()
    cfg.MODEL.ROI_HEADS.NAME = "IGAMCascadeROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    cfg.MODEL.PIXEL_STD = [57.0, 57.0, 57.0]
    cfg.MODEL.IGAM.REFRESH_PERIOD = 3
    cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR = 2, 6, 1e-3
    cfg.OUTPUT_DIR = str(tmp_path / "whole")
    return cfg


def train(cfg, *, resume: bool) -> Trainer:
    torch.manual_seed(7)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_stages_have_information_of_their_own_and_go_on_after_a_resume(cascade, tmp_path):
    whole = train(cascade, resume=False)
    output = tmp_path / "whole"
    lines = [json.loads(line) for line in (output / "information.jsonl").open()]
    assert [(line["iteration"], line["predictor"]) for line in lines] == [
        (iteration, stage) for iteration in (3, 6) for stage in STAGES
    ]
    first, *later = (line["information"] for line in lines[3:])
    assert all(first != other for other in later)
    metrics = [json.loads(line) for line in (output / "metrics.json").open()]
    names = set().union(*metrics)
    (events,) = output.glob("events.out.tfevents.*")
    events = events.read_bytes()
    for k in range(3):
        assert {f"igam/stage{k}/information_mean", f"igam/stage{k}/max_margin"} <= names
        for name in ("information_bits", "margin_rad"):
            assert f"igam/stage{k}/{name}".encode() in events
    # Of the hook, beside Detectron2's own stage0/loss_cls and the like
    assert not [name for name in names if name.startswith("stage") and "igam" in name]

    # As if it had been killed after iteration 4, in the middle of the second period
    cascade.OUTPUT_DIR = str(tmp_path / "resumed")
    (tmp_path / "resumed").mkdir()
    for name in ("model_0000003.pth", "information.jsonl"):
        shutil.copy(output / name, tmp_path / "resumed" / name)
    (tmp_path / "resumed/last_checkpoint").write_text("model_0000003.pth")
    checkpoint = torch.load(output / "model_0000003.pth", weights_only=True)
    moments = checkpoint["trainer"]["hooks"]["InformationAmountHook"]
    assert list(moments) == STAGES
    assert all(moments[stage]["count"].sum() > 0 for stage in STAGES)
    resumed = train(cascade, resume=True)
    assert resumed.start_iter == 4
    again = [json.loads(line) for line in (tmp_path / "resumed/information.jsonl").open()]
    assert again == lines
    a, b = whole.model.state_dict(), resumed.model.state_dict()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0, equal_nan=True, msg=key)
