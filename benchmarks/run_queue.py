"""Runs that are processes of their own: several at a time, each after those that it needs."""

import datetime
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Job", "duration", "execute", "slots"]

POLL_SECONDS = 0.2


@dataclass(eq=False)
class Job:
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

    def found(self) -> Any:
        """The result that it has left on disk; None if it is not complete."""
        raise NotImplementedError

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
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C reaches it as SIGTERM: it saves a checkpoint
            )

    def finish(self, status: int) -> None:
        self.result = self.found() if status == 0 else None
        if self.result is None:
            text = (self.folder / "console.txt").read_text(encoding="utf-8", errors="replace")
            lines = [line for line in text.splitlines() if line.strip()]
            what = lines[-1].strip() if lines else "it said nothing"
            self.problem = f"{what} (exit status {status})"


def slots(jobs: int, gpus: int = 0) -> list[dict[str, str]]:
    """Environments of `jobs` processes that share the machine's cores, and its GPUs in turn."""
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    environments = [{"OMP_NUM_THREADS": str(threads)} for _ in range(jobs)]
    for number, environment in enumerate(environments):
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = _visible(gpus)[number % gpus]
    return environments


def _visible(gpus: int) -> list[str]:
    """The GPUs that this process may use, by the names that a child takes."""
    names = os.getenv("CUDA_VISIBLE_DEVICES")
    return names.split(",") if names else [str(number) for number in range(gpus)]


def execute(
    jobs: Sequence[Job],
    environments: Sequence[Mapping[str, str]],
    *,
    deadline: float | None = None,
) -> None:
    """Carries out the jobs that are not over, the first that can be first, and says when each is.

    Args:
        environments: of the processes, as many as run at a time.
        deadline: of `time.monotonic()`, after which no job is begun; those are left as they are.
    """
    waiting = [job for job in jobs if not job.over]
    running: dict[subprocess.Popen, tuple[Job, float, Mapping[str, str]]] = {}
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
                running[job.start(environment)] = job, time.monotonic(), environment
            if waiting and not running and not ready:
                return  # what they need is not among the jobs, or was not begun in time
            time.sleep(POLL_SECONDS)
            for process in [p for p in running if p.poll() is not None]:
                job, began, environment = running.pop(process)
                free.append(environment)
                seconds = time.monotonic() - began
                job.finish(process.returncode)
                if job.result is not None:
                    spent.setdefault(job.kind, []).append(seconds)
                left = [*waiting, *(job for job, *_ in running.values())]
                _say(job, seconds, jobs, _hint(left, spent, len(environments)))
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


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
