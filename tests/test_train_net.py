"""The main path as a user walks it: train, checkpoint, resume, evaluate, report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def config(cfg, digits_root, tmp_path, monkeypatch):
    """The tiny detector's config as a file, on the small Digits-LT."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(digits_root))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("digits_lt_train",), ("digits_lt_val",)
    file = tmp_path / "tiny.yaml"
    file.write_text(cfg.dump())
    return file


def run(*args, check: bool = True, script: str = "train_net.py") -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", str(ROOT / script), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, cwd=ROOT)
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def state(path: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(path, weights_only=True)
    moments = checkpoint["trainer"]["hooks"]["InformationAmountHook"]
    return {**checkpoint["model"], **moments["roi_heads.box_predictor"]}


def test_train_checkpoint_resume_evaluate_report(config, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train = ("--config-file", config, "MODEL.IGAM.REFRESH_PERIOD", 3, "OUTPUT_DIR")
    run(*train, whole)

    # An epoch's statistics are in the middle when the run is interrupted after four iterations.
    log = run(*train, parts)
    assert "Refreshed roi_heads.box_predictor at iteration 3" in log.stdout
    (parts / "last_checkpoint").write_text("model_0000003.pth")
    (parts / "model_final.pth").unlink()
    assert state(parts / "model_0000003.pth")["count"].sum() > 0
    log = run("--resume", *train, parts)
    assert "Starting training from iteration 4" in log.stdout
    before, after = state(whole / "model_final.pth"), state(parts / "model_final.pth")
    assert before["roi_heads.box_predictor.information"].isfinite().any()
    assert before.keys() == after.keys()
    for key, value in after.items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True, msg=key)

    results = json.loads((whole / "inference/digits_lt_val/results.json").read_text())
    assert {"AP", "AP50", "AP75", "APr", "APc", "APf"} <= results["metrics"]["bbox"].keys()
    assert [entry["name"] for entry in results["classes"]][:2] == ["zero", "one"]
    lines = (whole / "metrics.json").read_text().splitlines()
    assert any("igam/max_margin" in json.loads(line) for line in lines)
    assert len((whole / "information.jsonl").read_text().splitlines()) == 2

    evaluated = tmp_path / "evaluated"
    weights = ("MODEL.WEIGHTS", whole / "model_final.pth", "OUTPUT_DIR", evaluated)
    run("--eval-only", "--config-file", config, *weights)
    again = json.loads((evaluated / "inference/digits_lt_val/results.json").read_text())
    assert again["metrics"] == results["metrics"]

    report = run(whole, evaluated, "--output", tmp_path / "report", script="tools/report.py")
    assert report.stdout.splitlines()[-1] == str(tmp_path / "report" / "report.html")
    page = (tmp_path / "report" / "report.html").read_text()
    figures = {path.stem for path in (tmp_path / "report" / "figures").glob("*.png")}
    assert {"ap_by_group", "ap_correlation", "information_history", "tide"} <= figures
    for name in ("whole", "evaluated", "seven"):
        assert name in page


def test_same_seed_same_run(config, tmp_path):
    states = []
    for name in "ab":
        run("--config-file", config, "SOLVER.MAX_ITER", 3, "OUTPUT_DIR", tmp_path / name)
        states.append(torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"])
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=0, atol=0, equal_nan=True, msg=key)


@pytest.mark.parametrize(
    "args, part",
    [
        (["MODEL.IGAM.SHRINKAGE", "oaz"], "did you mean 'oas'"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "7"], "NUM_CLASSES is 7, but 'digits_lt_val' has 10"),
        (["--eval-only"], "No weights to evaluate"),
    ],
)
def test_mistakes_end_in_one_line(config, tmp_path, args, part):
    flags = [arg for arg in args if arg.startswith("--")]
    opts = [arg for arg in args if not arg.startswith("--")]
    done = run(*flags, "--config-file", config, "OUTPUT_DIR", tmp_path / "out", *opts, check=False)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and part in last and "Traceback" not in done.stderr
