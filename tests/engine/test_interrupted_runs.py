"""Runs that are killed, as processes: what a resumed one ends with equals an uninterrupted one."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase

ROOT = Path(__file__).parents[2]
NUM_ITERATIONS, EPOCH = 72, 6
# A server that has imported everything: a life of the run begins after a few milliseconds.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["igam_d2.engine"])


@pytest.fixture
def config(cfg, digits_root, monkeypatch, tmp_path):
    """Twelve epochs of 24 images without augmentation; refreshes and checkpoints out of step."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(digits_root))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("digits_lt_train",), ()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.BASE_LR = NUM_ITERATIONS, 4, 1e-3
    (tmp_path / "config.yaml").write_text(cfg.dump())
    return tmp_path / "config.yaml"


class WriteLosses(HookBase):
    """A line for each iteration, on the disk before the next one."""

    def __init__(self, path):
        self._path = path

    def after_step(self):
        loss = self.trainer.storage.history("total_loss").latest()
        with open(self._path, "a") as f:
            f.write(f"{self.trainer.iter} {loss!r}\n")


def train(config: Path, output: Path, root: str, opts=()):
    """Begins or goes on; says so in `output`/log.txt, the losses in losses.txt."""
    from detectron2.utils.logger import setup_logger

    from igam_d2.config import load_config
    from igam_d2.data import register
    from igam_d2.engine import Trainer

    output.mkdir(exist_ok=True)
    with open(output / "stderr.txt", "a") as f:
        os.dup2(f.fileno(), 1), os.dup2(f.fileno(), 2)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers, as by default
    for name in [name for name in DatasetCatalog.list() if name.startswith("digits_lt")]:
        DatasetCatalog.remove(name), MetadataCatalog.remove(name)
    os.environ["DETECTRON2_DATASETS"] = root
    register.register_digits_lt()
    cfg = load_config(str(config), ["OUTPUT_DIR", str(output), *opts])
    torch.manual_seed(7), random.seed(7)
    setup_logger(str(output), name="igam_d2")
    setup_logger(str(output), name="detectron2")
    trainer = Trainer(cfg)
    trainer.register_hooks([WriteLosses(output / "losses.txt")])
    trainer._hooks.insert(0, trainer._hooks.pop())  # ahead of the checkpoint
    trainer.resume_or_load(resume=True)
    trainer.train()


def start(config, output, opts=()) -> multiprocessing.Process:
    root = os.environ["DETECTRON2_DATASETS"]
    process = CONTEXT.Process(target=train, args=(config, output, root, opts))
    process.start()
    return process


def finish(process: multiprocessing.Process) -> None:
    process.join(120)
    assert process.exitcode is not None, "it hangs"


def wait_for(condition, process, seconds: float = 60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.is_alive() and time.monotonic() < end
        time.sleep(0.002)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def losses(output: Path) -> dict[int, str]:
    """Of each iteration; where it was done twice, both times the same."""
    seen: dict[int, str] = {}
    for line in (output / "losses.txt").read_text().splitlines():
        if len(line.split()) == 2:  # else it was cut off
            iteration, loss = line.split()
            assert seen.setdefault(int(iteration), loss) == loss
    return seen


def final(output: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(output / "model_final.pth", weights_only=True)
    moments = checkpoint["trainer"]["hooks"]["InformationAmountHook"]["roi_heads.box_predictor"]
    momentum = checkpoint["trainer"]["_trainer"]["optimizer"]["state"]
    momentum = {f"momentum {i}": state["momentum_buffer"] for i, state in momentum.items()}
    return {**checkpoint["model"], **moments, **momentum}


def assert_same_end(output: Path, whole: Path):
    a, b = final(output), final(whole)
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0, equal_nan=True, msg=key)
    assert losses(output) == losses(whole) and len(losses(whole)) == NUM_ITERATIONS
    lines = [(path / "information.jsonl").read_text() for path in (output, whole)]
    assert lines[0] == lines[1] and len(lines[0].splitlines()) == NUM_ITERATIONS // EPOCH


def test_killed_twenty_times_equals_uninterrupted(config, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(config, whole)
    wait_for(lambda: "Starting training" in log(whole), process)
    began = time.monotonic()
    finish(process)
    step = (time.monotonic() - began) / NUM_ITERATIONS
    assert process.exitcode == 0, (whole / "stderr.txt").read_text()[-2000:]

    moment = random.Random(0)
    for life in range(1, 21):
        process = start(config, killed)
        wait_for(lambda n=life: log(killed).count("Starting training") == n, process)
        time.sleep(moment.uniform(0, 7 * step))
        process.kill()
        finish(process)
        assert process.exitcode == -signal.SIGKILL
    process = start(config, killed)
    finish(process)
    assert process.exitcode == 0, (killed / "stderr.txt").read_text()[-2000:]
    assert len(set(resumed_at(killed))) > 4  # the kills were spread over the run
    assert_same_end(killed, whole)


def log(output: Path) -> str:
    path = output / "log.txt"
    return path.read_text() if path.exists() else ""


def resumed_at(output: Path) -> list[int]:
    lines = log(output).split("Starting training from iteration ")[1:]
    return [int(line.split()[0]) for line in lines]


def test_checkpoint_cut_off_is_passed_over(config, tmp_path):
    # An evaluation after iteration 8, which the resumed run does not repeat, leaves no trace.
    opts = ["SOLVER.MAX_ITER", "12", "TEST.EVAL_PERIOD", "8"]
    opts += ["DATASETS.TEST", "('digits_lt_val',)"]
    process = start(config, tmp_path / "run", opts)
    finish(process)
    expected = final(tmp_path / "run")
    (tmp_path / "run/model_final.pth").unlink()
    last = tmp_path / "run/model_0000011.pth"
    last.write_bytes(last.read_bytes()[:-5000])
    (tmp_path / "run/last_checkpoint").write_text(last.name)
    process = start(config, tmp_path / "run", opts)
    finish(process)
    assert "model_0000011.pth in" in log(tmp_path / "run")
    assert "cut off while being written; the last whole checkpoint is model_0000007.pth" in log(
        tmp_path / "run"
    )
    assert resumed_at(tmp_path / "run") == [0, 8]
    for key, value in final(tmp_path / "run").items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0, equal_nan=True, msg=key)


def test_sigterm_writes_one_checkpoint_and_another_queue_goes_on(config, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    opts = ["SOLVER.CHECKPOINT_PERIOD", "1000"]
    finish(start(config, whole, opts))
    process = start(config, stopped, [*opts, "DATALOADER.NUM_WORKERS", "1"])
    wait_for(lambda: (stopped / "losses.txt").exists() and len(losses(stopped)) > 8, process)
    for worker in children(process.pid):  # a scheduler may signal them too
        os.kill(worker, signal.SIGTERM)
    time.sleep(0.2)
    process.terminate()
    finish(process)
    assert process.exitcode == 143, (stopped / "stderr.txt").read_text()[-2000:]
    (checkpoint,) = stopped.glob("*.pth")
    assert checkpoint.name == f"model_{max(losses(stopped)):07d}.pth"
    finish(start(config, stopped, [*opts, "MODEL.IGAM.QUEUE_LENGTH", "7"]))
    lines = [
        [json.loads(line) for line in (path / "information.jsonl").open()]
        for path in (stopped, whole)
    ]
    # The refresh after the stop sees embeddings of before and after it. The queue was emptied at
    # other times, so that the last digits differ, and with them the training from then on.
    refresh = int(checkpoint.stem.split("_")[1]) // EPOCH
    assert lines[0][refresh]["count"] == lines[1][refresh]["count"]
    a, b = (torch.tensor(found[refresh]["information"]) for found in lines)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_sigterm_to_one_of_two_processes_stops_both_and_one_process_goes_on(config, tmp_path):
    """The command line as a user has it: two processes (GLOO), resumed with a single one."""
    content = yaml.safe_load(config.read_text())
    content["SOLVER"]["CHECKPOINT_PERIOD"], content["SOLVER"]["MAX_ITER"] = 1000, 200
    config.write_text(yaml.safe_dump(content))
    output = tmp_path / "run"
    command = [sys.executable, "-W", "ignore", str(ROOT / "train_net.py"), "--config-file", config]
    command = [*map(str, command), "--resume"]
    run = subprocess.Popen(
        [*command, "--num-gpus", "2", "OUTPUT_DIR", str(output)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    wait_for(lambda: (output / "information.jsonl").exists(), Alive(run))
    ranks = [
        pid for pid in children(run.pid) if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
    ]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGTERM)
    stderr = run.communicate(timeout=60)[1]
    assert run.returncode == 143, stderr[-3000:]
    (checkpoint,) = output.glob("*.pth")
    iteration = int(checkpoint.stem.split("_")[1])
    assert 0 < iteration < 199

    done = subprocess.run(
        [*command, "OUTPUT_DIR", str(output), "SOLVER.MAX_ITER", str(iteration + 13)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Starting training from iteration {iteration + 1}" in done.stdout
    # An epoch has as many iterations for one process as for two, and its position was kept.
    lines = [json.loads(line) for line in (output / "information.jsonl").open()]
    assert [line["iteration"] for line in lines] == list(range(6, iteration + 14, 6))


class Alive:
    """A subprocess, as :func:`wait_for` asks for it."""

    def __init__(self, process: subprocess.Popen):
        self.is_alive = lambda: process.poll() is None
