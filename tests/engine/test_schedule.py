"""Schedules in epochs: iterations of a data set, other batch sizes, and runs that change theirs."""

import logging

import pytest

from igam_d2.config import load_config
from igam_d2.engine import Trainer
from igam_d2.engine.schedule import resolve_schedule
from igam_d2.errors import InputError

LVIS = ["SOLVER.MAX_EPOCHS", "24", "SOLVER.STEPS_EPOCHS", "[16, 22]", "SOLVER.BASE_LR", "0.02"]


@pytest.mark.parametrize(
    "batch, lr, warmup, epoch, steps, end",
    [
        (16, 0.02, 1000, 6261, (100176, 137742), 150264),  # the paper's
        (2, 0.0025, 8000, 50085, (801360, 1101870), 1202040),
        (64, 0.08, 250, 1566, (25056, 34452), 37584),
    ],
)
def test_numbers_of_lvis(caplog, batch, lr, warmup, epoch, steps, end):
    opts = ["SOLVER.REFERENCE_BATCH_SIZE", "16", "SOLVER.IMS_PER_BATCH", str(batch)]
    given = load_config("", [*LVIS, *opts, "SOLVER.BASE_LR_END", "0.0002"])
    before = given.dump()
    with caplog.at_level(logging.INFO, "igam_d2"):
        cfg = resolve_schedule(given, -(-100170 // batch))
    got = {key: cfg.SOLVER[key] for key in ("MAX_ITER", "STEPS", "WARMUP_ITERS")}
    assert got == {"MAX_ITER": end, "STEPS": steps, "WARMUP_ITERS": warmup}
    rates = [cfg.SOLVER.BASE_LR, cfg.SOLVER.BASE_LR_END]
    assert rates == pytest.approx([lr, lr / 100])
    assert given.dump() == before and cfg.is_frozen()
    assert resolve_schedule(cfg, epoch).dump() == cfg.dump()
    line = next(message for message in caplog.messages if message.startswith("An epoch is"))
    assert f"{epoch:,} iterations of {batch} images" in line and f"MAX_ITER is {end:,} and" in line
    assert (f"BASE_LR is {lr:g} in place of 0.02" in line) == (batch != 16)


def test_without_the_keys_a_config_is_what_it_was():
    cfg = load_config("", [])
    assert resolve_schedule(cfg, 100) is cfg
    short = ["SOLVER.MAX_EPOCHS", "3", "SOLVER.WARMUP_ITERS", "20"]
    constant = load_config("", short)
    assert resolve_schedule(constant, 100).SOLVER.STEPS == ()  # not the 30000 of Detectron2
    halves = load_config("", [*short, "SOLVER.STEPS_EPOCHS", "[0.5, 2.5]"])
    assert resolve_schedule(halves, 100).SOLVER.STEPS == (50, 250)


@pytest.mark.parametrize(
    "opts, parts",
    [
        (["MAX_EPOCHS", "-1"], ["MAX_EPOCHS is -1", "at least 0"]),
        (["REFERENCE_BATCH_SIZE", "-1"], ["REFERENCE_BATCH_SIZE is -1"]),
        (["STEPS_EPOCHS", "[8]"], ["STEPS_EPOCHS is [8]", "MAX_EPOCHS is 0"]),
        (["MAX_EPOCHS", "12", "STEPS_EPOCHS", "[8, 12]"], ["[8, 12]", "below", "12"]),
        (["MAX_EPOCHS", "12", "STEPS_EPOCHS", "[8, 6]"], ["[8, 6]", "ascend"]),
        (["MAX_EPOCHS", "12", "STEPS_EPOCHS", "[0]"], ["[0]", "above 0"]),
        (["MAX_EPOCHS", "12", "STEPS_EPOCHS", "['8']"], ["['8']", "numbers"]),
        (["REFERENCE_BATCH_SIZE", "16", "REFERENCE_WORLD_SIZE", "8"], ["REFERENCE_WORLD_SIZE 8"]),
        (["LR_SCHEDULER_NAME", "WarmupCosine"], ["mean 'WarmupCosineLR'", "WarmupMultiStepLR"]),
        (["NESTEROV", "True", "MOMENTUM", "0.0"], ["NESTEROV", "MOMENTUM 0.0"]),
    ],
)
def test_bad_values_get_one_sentence(opts, parts):
    opts = [opt if i % 2 else f"SOLVER.{opt}" for i, opt in enumerate(opts)]
    with pytest.raises(InputError) as info:
        load_config("", opts)
    assert all(part in str(info.value) for part in parts) and "\n" not in str(info.value)


@pytest.mark.parametrize(
    "epoch_length, steps, warmup, parts",
    [
        (100, "[2]", 400, ["400 iterations, and the first of the steps is at iteration 200"]),
        (100, "[]", 300, ["the end of the run is at iteration 300", "WARMUP_ITERS"]),
        (3, "[0.1, 0.2]", 0, ["the iterations 0, 1 of 9", "differ"]),
        (2, "[2.9]", 0, ["the iterations 6 of 6"]),
    ],
)
def test_schedules_that_a_small_set_is_too_short_for(epoch_length, steps, warmup, parts):
    opts = {"MAX_EPOCHS": "3", "STEPS_EPOCHS": steps, "WARMUP_ITERS": str(warmup)}
    cfg = load_config(
        "", [part for key, value in opts.items() for part in (f"SOLVER.{key}", value)]
    )
    with pytest.raises(InputError) as info:
        resolve_schedule(cfg, epoch_length)
    assert all(part in str(info.value) for part in parts) and "\n" not in str(info.value)


def trainer(cfg, tmp_path, batch=4):
    cfg = cfg.clone()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("digits_lt_train",), ()
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.SOLVER.MAX_EPOCHS, cfg.SOLVER.STEPS_EPOCHS = 1, [0.9]
    cfg.SOLVER.REFERENCE_BATCH_SIZE, cfg.SOLVER.IMS_PER_BATCH = 8, batch
    return Trainer(cfg)


def test_a_run_has_the_length_and_the_rates_of_its_epochs(cfg, digits, tmp_path):
    run = trainer(cfg, tmp_path)  # 24 images
    assert (run.max_iter, run.cfg.SOLVER.STEPS, run.cfg.SOLVER.WARMUP_ITERS) == (6, (5,), 4)
    rates = []
    for _ in range(6):
        rates.append(run.optimizer.param_groups[0]["lr"])
        run.optimizer.step(), run.scheduler.step()
    assert rates[4:] == pytest.approx([0.01 * 4 / 8, 0.01 * 4 / 8 * 0.1])


def test_resuming_with_another_batch_size_is_said(cfg, digits, tmp_path, caplog):
    first = trainer(cfg, tmp_path)
    first.max_iter = 1
    first.train()
    resumed = trainer(cfg, tmp_path)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 1 and "another size" not in caplog.text
    trainer(cfg, tmp_path, batch=2).resume_or_load(resume=True)
    (warning,) = (message for message in caplog.messages if "another size" in message)
    assert "The 1 iterations of the checkpoint saw 4 images, not the 2 of" in warning
    assert "iteration 12, after 1.1 epochs in all" in warning
