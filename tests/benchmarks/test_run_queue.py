"""The queue of the benchmarks' runs, with jobs that are over at once."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from igam_d2.errors import InputError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DONE = "import os; open('done', 'w').write(os.environ.get('SLOT', '') + ' ')"


@pytest.fixture
def queue(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import run_queue

    monkeypatch.setattr(run_queue, "POLL_SECONDS", 0.01)
    yield run_queue
    sys.modules.pop("run_queue")


@pytest.fixture
def job(queue, tmp_path):
    """A function that makes a job of a name and Python code, run in the job's folder. Its result
    is what it left in a file `done`; jobs with `goes_on` were begun before."""

    @dataclass(eq=False, kw_only=True)
    class PythonJob(queue.Job):
        goes_on: bool = False

        def found(self):
            file = self.folder / "done"
            return file.read_text() if file.is_file() else None

        def begun(self):
            return self.goes_on

    def make(name, code=DONE, **attributes):
        folder = tmp_path / name
        command = [sys.executable, "-S", "-c", f"import os; os.chdir({str(folder)!r})\n{code}"]
        return PythonJob(name=name, folder=folder, command=command, **attributes)

    return make


def names_said(capsys) -> list[str]:
    return [line.split()[1].rstrip(":") for line in capsys.readouterr().out.splitlines()]


def test_one_after_the_other_in_their_order(queue, job, capsys):
    late = job("late")
    jobs = [job("needs_late", needs=(late,)), job("a"), late, job("b")]
    queue.execute(jobs, [{}])
    assert names_said(capsys) == ["a", "late", "needs_late", "b"]
    assert all(one.result is not None and one.problem is None for one in jobs)
    queue.execute(jobs, [{}])  # nothing is left
    assert not capsys.readouterr().out


def test_a_failure_is_told_and_passed_on_to_what_needs_it(queue, job, capsys):
    fails = job("fails", "print('on the way'); raise ValueError('no')")
    second = job("second", needs=(fails,))
    jobs = [job("third", needs=(second,)), second, fails, job("other"), job("empty", "pass")]
    queue.execute(jobs, [{}])
    problems = {one.name: one.problem for one in jobs}
    assert problems == {
        "fails": "ValueError: no (exit status 1)",
        "second": "it needs fails, which failed",
        "third": "it needs second, which failed",
        "other": None,
        "empty": "it said nothing (exit status 0)",
    }
    assert not (second.folder / "console.txt").exists()
    out = capsys.readouterr().out
    assert "5/5" in out and "other: done, 0:00:0" in out
    assert out.count("FAILED: ") == 4 and "FAILED: it needs second" in out


def test_what_needs_something_else_is_left(queue, job, capsys):
    elsewhere = job("elsewhere")
    left = job("left", needs=(elsewhere,))
    queue.execute([left, job("a")], [{}, {}])
    assert not left.over and names_said(capsys) == ["a"]
    elsewhere.result = "there"
    queue.execute([left], [{}])
    assert left.result is not None


def test_no_job_is_begun_after_the_deadline(queue, job, capsys):
    slow = job("slow", f"import time; time.sleep(0.5)\n{DONE}")
    jobs = [slow, job("after")]
    queue.execute(jobs, [{}], deadline=time.monotonic() + 0.2)
    assert [one.over for one in jobs] == [True, False] and slow.result is not None
    jobs = [job("x"), job("y")]
    queue.execute(jobs, [{}, {}], deadline=time.monotonic() - 1)
    assert not any(one.over or one.folder.exists() for one in jobs)
    assert names_said(capsys) == ["slow"]


def test_each_slot_has_one_job_at_a_time(queue, job):
    code = """
import time
begin = time.monotonic(); time.sleep(0.2)
open("done", "w").write(f"{os.environ['SLOT']} {begin} {time.monotonic()}")
"""
    jobs = [job(f"job{i}", code) for i in range(5)]
    queue.execute(jobs, [{"SLOT": "0"}, {"SLOT": "1"}])
    spans = {"0": [], "1": []}
    for one in jobs:
        slot, begin, end = one.result.split()
        spans[slot].append((float(begin), float(end)))
    for of_slot in spans.values():
        of_slot.sort()
        assert len(of_slot) >= 2
        assert all(end < begin for (_, end), (begin, _) in pairwise(of_slot))


def test_slots_share_cores_and_gpus(queue, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert queue.slots(4) == [{"OMP_NUM_THREADS": "1"}] * 4
    assert [slot["OMP_NUM_THREADS"] for slot in queue.slots(2) + queue.slots(12)[:1]] == [*"331"]
    gpus = [slot["CUDA_VISIBLE_DEVICES"] for slot in queue.slots(3, 2)]
    assert gpus == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-7a, 5")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in queue.slots(2, 2)] == ["GPU-7a", "5"]


@pytest.mark.parametrize(
    "names, count, asked", [(None, 1, 2), ("", 0, 1), ("3", 1, 2), ("0,1", 1, 2)]
)
def test_gpus_that_are_not_there(queue, monkeypatch, names, count, asked):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if names is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(InputError, match=f"--gpus is {asked}, but this process may use {count} "):
        queue.slots(2, asked)
    assert "CUDA_VISIBLE_DEVICES" not in queue.slots(2)[0]


def test_the_times_of_whole_jobs_are_kept(queue, job, tmp_path):
    times = tmp_path / "times.jsonl"
    slow = job("a", f"import time; time.sleep(0.2)\n{DONE}", kind="full")
    jobs = [slow, job("resumed", goes_on=True), job("fails", "raise ValueError")]
    queue.execute(jobs, [{"OMP_NUM_THREADS": "3"}], times=times)
    queue.execute([job("b")], [{}], times=times)
    a, b = map(json.loads, times.read_text().splitlines())
    assert set(a) == {"name", "kind", "seconds", "threads", "date"}
    assert (a["name"], a["kind"], a["threads"]) == ("a", "full", 3)
    assert (b["name"], b["kind"], b["threads"]) == ("b", "run", None)
    assert 0.2 <= a["seconds"] < 60


@pytest.mark.parametrize("interruptions", [1, 2])
def test_an_interruption_ends_all_processes(queue, job, monkeypatch, interruptions):
    wait = "\nopen('ready', 'w').close()\nimport time\nwhile True: time.sleep(0.01)"
    saves = "import signal, sys\ndef save(*_):\n open('saved', 'w').close(); sys.exit(3)\n"
    saves += "signal.signal(signal.SIGTERM, save)"
    # This one hears nothing, and has a process of its own
    deaf = "import signal, subprocess, sys\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    deaf += "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; "
    deaf += "time.sleep(100)'])\nopen('child', 'w').write(str(child.pid))"
    jobs = [job("saves", saves + wait), job("deaf", deaf + wait), job("waits")]

    def sleep(seconds):
        time.sleep(seconds)
        if all((one.folder / "ready").exists() for one in jobs[:2]):
            raise KeyboardInterrupt

    monkeypatch.setattr(queue, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    monkeypatch.setattr(queue, "STOP_SECONDS", 1)
    processes = []
    start = queue.Job.start

    def started(self, environment):
        processes.append(start(self, environment))
        return processes[-1]

    monkeypatch.setattr(queue.Job, "start", started)
    if interruptions == 2:  # the second while it waits for the first to save

        def interrupted(self, timeout=None):
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        queue.execute(jobs, [{}, {}])
    assert len(processes) == 2 and all(process.poll() is not None for process in processes)
    assert processes[1].returncode == -9
    if interruptions == 1:
        assert processes[0].returncode == 3 and (jobs[0].folder / "saved").exists()
    child = int((jobs[1].folder / "child").read_text())
    end = time.monotonic() + 10
    while _runs(child) and time.monotonic() < end:
        time.sleep(0.01)
    assert not _runs(child) and not any(one.over for one in jobs)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
