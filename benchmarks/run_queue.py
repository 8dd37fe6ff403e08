"""Runs that are processes of their own: several at a time, each after those that it needs."""

import contextlib
import datetime
import json
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from igam_d2.errors import InputError

__all__ = ["Job", "duration", "execute", "slots"]

POLL_SECONDS = 0.2
STOP_SECONDS = 60  # for a checkpoint, before a process that is to stop is killed


@dataclass(eq=False)
class Job(ABC):
    """A command, over with either a `result` or a `problem`.

    Attributes:
        name: as the user is told.
        folder: of its results, and of console.txt, which has what it said.
        command: program and arguments.
        needs: what must be done before.
        kind: jobs of a kind take about as long.
    """

    name: str
    folder: Path
    command: list[str] = field(default_factory=list)
    needs: tuple["Job", ...] = ()
    kind: str = "run"
    result: Any = None
    problem: str | None = None

    @property
    def over(self) -> bool:
        return self.result is not None or self.problem is not None

    @abstractmethod
    def found(self) -> Any:
        """The result that it has left on disk; None if it is not complete."""

    def begun(self) -> bool:
        """Whether it goes on with what it did before: its time is then not that of the whole."""
        return False

    def said(self) -> str:
        """The result in a few words."""
        return "done"

    def start(self, environment: Mapping[str, str]) -> subprocess.Popen:
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "console.txt", "wb") as console:
            return subprocess.Popen(
                self.command,
                stdout=console,
                stderr=subprocess.STDOUT,
                # Unbuffered, or what it said before an error could be the last line
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                start_new_session=True,  # Ctrl-C reaches it as SIGTERM: it saves a checkpoint
            )

    def finish(self, status: int) -> None:
        self.result = self.found() if status == 0 else None
        if self.result is None:
            text = (self.folder / "console.txt").read_text(encoding="utf-8", errors="replace")
            lines = [line for line in text.splitlines() if line.strip()]
            what = lines[-1].strip() if lines else "it said nothing"
            self.problem = f"{what} (exit status {status})"


@dataclass(frozen=True)
class _Started:
    """A job whose process runs; `whole` if it began from the start."""

    job: Job
    at: float
    environment: Mapping[str, str]
    whole: bool


def slots(jobs: int, gpus: int = 0) -> list[dict[str, str]]:
    """Environments of `jobs` processes that share the machine's cores, and its GPUs in turn.

    Raises:
        InputError: more GPUs than there are.
    """
    visible = _visible() if gpus else []
    if gpus > len(visible):
        raise InputError(
            f"--gpus is {gpus}, but this process may use {len(visible)} (CUDA_VISIBLE_DEVICES is "
            f"{os.getenv('CUDA_VISIBLE_DEVICES', 'not set')!r}): choose at most as many."
        )
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    environments = [{"OMP_NUM_THREADS": str(threads)} for _ in range(jobs)]
    for number, environment in enumerate(environments):
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = visible[number % gpus]
    return environments


def _visible() -> list[str]:
    """The GPUs that this process may use, by the names that a child takes."""
    count = torch.cuda.device_count()
    names = os.getenv("CUDA_VISIBLE_DEVICES")
    if names is None:
        return [str(number) for number in range(count)]
    return [name.strip() for name in names.split(",") if name.strip()][:count]


def execute(
    jobs: Sequence[Job],
    environments: Sequence[Mapping[str, str]],
    *,
    deadline: float | None = None,
    times: Path | None = None,
) -> None:
    """Carries out the jobs that are not over, the first that can be first, and says when each is.

    Args:
        environments: of the processes, as many as run at a time.
        deadline: of `time.monotonic()`, after which no job is begun; those are left as they are.
        times: file of JSON lines, for the seconds of each job that was done from start to end.
    """
    waiting = [job for job in jobs if not job.over]
    running: dict[subprocess.Popen, _Started] = {}
    free = list(environments)
    spent: dict[str, list[float]] = {}  # seconds, by kind
    try:
        while waiting or running:
            _fail_those_without_what_they_need(waiting, jobs)
            if deadline is not None and time.monotonic() > deadline:
                waiting.clear()
            ready = [job for job in waiting if all(need.result is not None for need in job.needs)]
            for job in ready[: len(free)]:
                waiting.remove(job)
                environment = free.pop(0)
                whole = not job.begun()
                process = job.start(environment)
                running[process] = _Started(job, time.monotonic(), environment, whole)
            if waiting and not running and not ready:
                return  # what they need is not among the jobs, or was not begun in time
            time.sleep(POLL_SECONDS)
            for process in [p for p in running if p.poll() is not None]:
                started = running.pop(process)
                job = started.job
                free.append(started.environment)
                seconds = time.monotonic() - started.at
                job.finish(process.returncode)
                if job.result is not None and started.whole:
                    spent.setdefault(job.kind, []).append(seconds)
                    if times is not None:
                        _keep_time(times, started, seconds)
                left = [*waiting, *(other.job for other in running.values())]
                _say(job, seconds, jobs, _hint(left, spent, len(environments)))
    finally:
        _stop(list(running))


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """Ends those that run: in an orderly way within STOP_SECONDS, or else by force."""
    for process in processes:
        process.terminate()
    end = time.monotonic() + STOP_SECONDS
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            for process in processes:
                process.wait(max(0.0, end - time.monotonic()))
    finally:  # Ctrl-C again is another reason
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # it leads a group: see Job.start
                process.wait()


def _keep_time(times: Path, started: _Started, seconds: float) -> None:
    line = {
        "name": started.job.name,
        "kind": started.job.kind,
        "seconds": round(seconds, 1),
        "threads": int(started.environment.get("OMP_NUM_THREADS", 0)) or None,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    with open(times, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _fail_those_without_what_they_need(waiting: list[Job], jobs: Sequence[Job]) -> None:
    failed = True
    while failed:  # what fails here may be what another one needs
        failed = [job for job in waiting if any(need.problem for need in job.needs)]
        for job in failed:
            waiting.remove(job)
            name = next(need.name for need in job.needs if need.problem)
            job.problem = f"it needs {name}, which failed"
            _say(job, 0.0, jobs, "")


def _say(job: Job, seconds: float, jobs: Sequence[Job], hint: str) -> None:
    said = job.said() if job.problem is None else f"FAILED: {job.problem}"
    place = f"{sum(job.over for job in jobs)}/{len(jobs)}"
    print(f"{place} {job.name}: {said}, {duration(seconds)}{hint}", flush=True)


def _hint(left: Sequence[Job], spent: Mapping[str, list[float]], num_slots: int) -> str:
    """The time that is left, as far as it can be told from jobs of the same kinds."""
    known = [sum(spent[job.kind]) / len(spent[job.kind]) for job in left if job.kind in spent]
    if not known:
        return ""
    return f"; about {duration(sum(known) / min(num_slots, len(known)))} left"


def duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
