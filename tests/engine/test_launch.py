"""Processes and machines that do not find each other end in a sentence, not in a wait."""

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils import comm
from torch.distributed import distributed_c10d

from igam_d2.engine.launch import launch
from igam_d2.errors import InputError, TransientError


def arguments(**kwargs) -> SimpleNamespace:
    defaults = {"num_gpus": 1, "num_machines": 2, "machine_rank": 0, "dist_timeout": 0.02}
    return SimpleNamespace(**{**defaults, "dist_url": "auto", **kwargs})


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def cpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for the processes
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    return SimpleNamespace(MODEL=SimpleNamespace(DEVICE="cpu"), DATASETS={})


def main(args, cfg):
    """Stands for the training; in every process."""
    assert comm.get_world_size() == 2 and comm.get_rank() == args.machine_rank
    assert comm.all_gather(args.machine_rank) == [0, 1]
    if comm.get_rank() == 1:
        time.sleep(5)
        # What the first process holds is still there, though it was ready at once.
        distributed_c10d._get_default_store().set("late", "")


def refuse(args, cfg):
    """In one process; the other one finds that it is gone, and ends before it."""
    if comm.get_rank() == 1:
        threading.Thread(target=time.sleep, args=(3,)).start()  # so long the process stays
        raise InputError("SOLVER.IMS_PER_BATCH is 3: it must be even.")
    distributed_c10d._get_default_store().wait(["igam_d2/input_error"])
    raise RuntimeError("Connection closed by peer")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"num_gpus": 0}, "--num-gpus is 0"),
        ({"machine_rank": 2}, "--machine-rank is 2: with 2 machines it must be from 0 to 1"),
        ({"dist_timeout": 0}, "must be above 0 minutes"),
        ({"dist_url": "auto"}, r"--dist-url is 'auto': .* as in tcp://10.0.0.1:29500"),
        ({"dist_url": "tcp://host:port"}, "--dist-url is 'tcp://host:port'"),
    ],
)
def test_wrong_arguments(cpu, wrong, message):
    with pytest.raises(InputError, match=message):
        launch(main, arguments(**wrong), cpu)


def test_devices(cpu, monkeypatch):
    cuda = SimpleNamespace(MODEL=SimpleNamespace(DEVICE="cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="--num-gpus is 4, but this machine has 1"):
        launch(main, arguments(num_gpus=4), cuda)
    with pytest.raises(InputError, match=r"MODEL\.DEVICE is 'cpu'"):
        launch(main, arguments(num_gpus=4), cpu)


def test_port_that_is_taken(cpu):
    with socket.create_server(("", 0)) as server:
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match=r"Port \d+ of this machine .*Address already in use"):
            launch(main, arguments(dist_url=url), cpu)


def test_machine_0_that_cannot_be_reached(cpu, monkeypatch, caplog):
    url = f"tcp://127.0.0.1:{free_port()}"
    start = time.monotonic()
    with pytest.raises(TransientError, match=r"within 0.02 minutes .*Connection refused"):
        launch(main, arguments(dist_url=url, machine_rank=1), cpu)
    assert time.monotonic() - start < 5


def test_machine_1_that_does_not_come(cpu):
    url = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(TransientError, match="Not all of the 2 machines were at"):
        launch(main, arguments(dist_url=url), cpu)


def test_two_machines_find_each_other(cpu):
    url = f"tcp://127.0.0.1:{free_port()}"
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_launch import *\n"
        "if __name__ == '__main__':\n"
        "    cpu = SimpleNamespace(MODEL=SimpleNamespace(DEVICE='cpu'), DATASETS={})\n"
        f"    launch(main, arguments(dist_url={url!r}, machine_rank=1, dist_timeout=1), cpu)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    other = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    launch(main, arguments(dist_url=url, dist_timeout=1), cpu)
    _, errors = other.communicate(timeout=30)
    assert other.returncode == 0, errors


def test_bad_input_found_by_a_process_stays_a_sentence(cpu):
    args = arguments(num_gpus=2, num_machines=1, dist_timeout=1)
    with pytest.raises(InputError, match=r"^SOLVER.IMS_PER_BATCH is 3: it must be even\.$"):
        launch(refuse, args, cpu)
