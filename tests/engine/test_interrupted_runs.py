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
NUM_ITERATIONS, EPOCH = 96, 6
# A server that has imported everything: a life of the run begins after a few milliseconds.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["igam_d2.engine"])


@pytest.fixture
def config(cfg, digits_root, monkeypatch, tmp_path):
    """Sixteen epochs of 24 images without augmentation; refreshes and checkpoints out of step."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(digits_root))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("digits_lt_train",), ()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.BASE_LR = NUM_ITERATIONS, 4, 1e-3
    (tmp_path / "config.yaml").write_text(cfg.dump())
    return tmp_path / "config.yaml"


class WriteLosses(HookBase):
    """A line for each iteration, on the disk before the next one; a signal in one of them."""

    def __init__(self, path, sigterm_in):
        self._path, self._sigterm_in = path, sigterm_in

    def after_step(self):
        loss = self.trainer.storage.history("total_loss").latest()
        with open(self._path, "a") as f:
            f.write(f"{self.trainer.iter} {loss!r}\n")
        if self.trainer.iter == self._sigterm_in:
            os.kill(os.getpid(), signal.SIGTERM)


def train(config: Path, output: Path, root: str, opts=(), sigterm_in=None):
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
    trainer.register_hooks([WriteLosses(output / "losses.txt", sigterm_in)])
    trainer._hooks.insert(0, trainer._hooks.pop())  # ahead of the checkpoint
    trainer.resume_or_load(resume=True)
    trainer.train()


def start(config, output, opts=(), sigterm_in=None) -> multiprocessing.Process:
    root = os.environ["DETECTRON2_DATASETS"]
    process = CONTEXT.Process(target=train, args=(config, output, root, opts, sigterm_in))
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


def num_steps(output: Path) -> int:
    """That were done in all, some of them twice."""
    path = output / "losses.txt"
    return path.read_bytes().count(b"\n") if path.exists() else 0


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
    finish(process)
    assert process.exitcode == 0, (whole / "stderr.txt").read_text()[-2000:]

    moment = random.Random(0)
    for _ in range(20):
        number = num_steps(killed) + moment.randint(0, 5)
        process = start(config, killed)
        wait_for(lambda n=number: num_steps(killed) > n, process)
        time.sleep(moment.uniform(0, 0.05))  # about a step, checkpoint or refresh included
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
    last = tmp_path / "run/model_final.pth"
    last.write_bytes(last.read_bytes()[:-5000])
    finish(start(config, tmp_path / "run", opts))
    said = log(tmp_path / "run")
    assert (
        f"model_final.pth in {tmp_path / 'run'} was cut off while being written; the last" in said
    )
    assert "last whole checkpoint is model_0000007.pth" in said
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


def train_with_a_long_evaluation(*args):
    from igam_d2.engine import Trainer

    Trainer.test = classmethod(lambda *_: time.sleep(60))
    train(*args)


def test_sigterm_in_an_evaluation_ends_it(config, tmp_path):
    opts = ["SOLVER.CHECKPOINT_PERIOD", "1000", "TEST.EVAL_PERIOD", "3"]
    root = os.environ["DETECTRON2_DATASETS"]
    args = (config, tmp_path / "run", root, opts)
    process = CONTEXT.Process(target=train_with_a_long_evaluation, args=args)
    process.start()
    wait_for(lambda: (tmp_path / "run/model_0000002.pth").exists(), process)
    time.sleep(0.3)
    process.terminate()
    process.join(20)
    assert process.exitcode == 143
    assert (tmp_path / "run/last_checkpoint").read_text() == "model_0000002.pth"


def test_sigterm_in_the_last_iteration_leaves_the_evaluation_to_the_resumed_run(config, tmp_path):
    opts = ["SOLVER.MAX_ITER", "6", "DATASETS.TEST", "('digits_lt_val',)"]
    process = start(config, tmp_path / "run", opts, sigterm_in=5)
    finish(process)
    assert process.exitcode == 143
    assert (tmp_path / "run/last_checkpoint").read_text() == "model_final.pth"
    assert json.loads((tmp_path / "run/metrics.json").read_text())["iteration"] == 5
    assert not (tmp_path / "run/inference").exists()
    process = start(config, tmp_path / "run", opts)
    finish(process)
    assert process.exitcode == 0 and resumed_at(tmp_path / "run") == [0, 6]
    assert (tmp_path / "run/inference/digits_lt_val/results.json").exists()


def test_two_processes_killed_resumed_and_stopped_by_one_then_a_single_one(
    config, tmp_path, request
):
    """The command line as a user has it. 24 images an epoch, whatever the processes."""
    content = yaml.safe_load(config.read_text())
    content["SOLVER"]["CHECKPOINT_PERIOD"], content["SOLVER"]["MAX_ITER"] = 8, 400
    config.write_text(yaml.safe_dump(content))
    output = tmp_path / "run"
    command = [sys.executable, "-W", "ignore", str(ROOT / "train_net.py"), "--resume"]
    command += ["--config-file", str(config), "OUTPUT_DIR", str(output)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # as many threads as processes
    kwargs = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "env": env}

    def num_refreshes() -> int:
        path = output / "information.jsonl"
        return path.read_text().count("\n") if path.exists() else 0

    def run_until(num: int) -> tuple[subprocess.Popen, list[int]]:
        run = subprocess.Popen([*command[:4], "--num-gpus", "2", *command[4:]], **kwargs)
        request.addfinalizer(run.kill)  # and with it its children, should the test fail
        wait_for(lambda: num_refreshes() >= num, Alive(run))
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in children(run.pid)}
        ranks = [pid for pid, line in commands.items() if "spawn_main" in line]
        assert len(ranks) == 2
        return run, ranks

    run, ranks = run_until(2)
    for pid in (run.pid, *ranks):
        os.kill(pid, signal.SIGKILL)
    run.communicate(timeout=60)
    assert (output / "last_checkpoint").read_text().startswith("model_00000")

    run, ranks = run_until(4)
    os.kill(ranks[1], signal.SIGTERM)
    stderr = run.communicate(timeout=60)[1]
    assert run.returncode == 143, stderr[-3000:]
    iteration = int((output / "last_checkpoint").read_text()[6:13])
    assert 24 <= iteration + 1 < 400

    done = subprocess.run([*command, "SOLVER.MAX_ITER", str(iteration + 13)], **kwargs)
    assert done.returncode == 0, done.stderr[-3000:]
    assert resumed_at(output)[2] == iteration + 1
    # The position in the epoch was kept, and so was what both processes had seen of it.
    lines = [json.loads(line) for line in (output / "information.jsonl").open()]
    assert [line["iteration"] for line in lines] == list(range(6, iteration + 14, 6))
    assert all(sum(line["count"]) > 0.9 * sum(lines[0]["count"]) for line in lines)


class Alive:
    """A subprocess, as :func:`wait_for` asks for it."""

    def __init__(self, process: subprocess.Popen):
        self.is_alive = lambda: process.poll() is None
