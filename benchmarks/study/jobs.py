"""What evidence.py has trained: caches of RoI features, runs, and what each leaves on disk."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cached_rois.cache import digest_of
from detectron2.config import CfgNode
from run_queue import Job

from igam_d2.errors import InputError
from study.plan import Method

__all__ = ["CACHE_FILE", "SPLITS", "Cache", "Measurement", "Run", "read_json"]

SPLITS = ("selection", "test")
CACHE_FILE = "cache.json"


@dataclass(eq=False, kw_only=True)
class Cache(Job):
    """RoI features of a whole detector."""

    detector: "Run"
    passes: int
    seed: int

    @property
    def rois(self) -> Path:
        return self.folder / "rois"

    @property
    def file(self) -> Path:
        """The last of them that is written."""
        return self.rois / CACHE_FILE

    def found(self) -> bool | None:
        """
        Raises:
            InputError: it is of other passes or another seed, or the detector has other weights.
        """
        if (content := read_json(self.file)) is None:
            return None
        for key, wanted in (("passes", self.passes), ("seed", self.seed)):
            if content.get(key) != wanted:
                raise InputError(
                    f"{self.rois} was made with {key} {content.get(key)!r}, which is now "
                    f"{wanted!r}: choose another --output, or delete that folder."
                )
        weights = self.detector.model
        if not weights.is_file() or content.get("sha256") != _digest(weights):
            raise InputError(
                f"{self.rois} is of another detector than {weights}: choose another --output, or "
                "delete that folder."
            )
        return True


@dataclass(eq=False, kw_only=True)
class Run(Job):
    """One method with one seed; its `result` has the AP of both splits."""

    method: Method
    seed: int
    cfg: CfgNode
    datasets: tuple[str, str]
    cache: Cache | None = None  # that it is trained on

    @property
    def model(self) -> Path:
        return self.folder / "model_final.pth"

    @property
    def results(self) -> list[str]:
        return [f"inference/{name}/results.json" for name in self.datasets]

    def found(self) -> dict[str, float] | None:
        """Of evaluations after the whole training, which was on the cache that is there."""
        try:
            if not self._is_of_its_cache(self.model):
                return None
            trained = self.model.stat().st_mtime
            files = [self.folder / name for name in self.results]
            if any(file.stat().st_mtime < trained for file in files):
                return None
            metrics = [json.loads(file.read_text())["metrics"]["bbox"] for file in files]
        except (OSError, ValueError, KeyError):
            return None
        return {split: m["AP"] for split, m in zip(SPLITS, metrics, strict=True)}

    def said(self) -> str:
        # Not the test split's: who looks at it while runs are chosen chooses by it
        return f"AP {self.result['selection']:.1f} on the selection split"

    def begun(self) -> bool:
        try:
            return self._is_of_its_cache(self.folder / "last_checkpoint")
        except OSError:
            return False

    def start(self, environment: Mapping[str, str]) -> subprocess.Popen:
        if not self.begun():  # there may be a checkpoint that was trained on another cache
            self.command = [part for part in self.command if part != "--resume"]
        return super().start(environment)

    def _is_of_its_cache(self, file: Path) -> bool:
        """
        Raises:
            OSError: one of them is not there.
        """
        written = file.stat().st_mtime
        return self.cache is None or written > self.cache.file.stat().st_mtime


@dataclass(eq=False, kw_only=True)
class Measurement(Job):
    """Of a whole detector, or without one, in a JSON file; its `result` is the content."""

    file: Path
    detector: Run | None = None

    def found(self) -> dict[str, Any] | None:
        if (content := read_json(self.file)) is None or self.detector is None:
            return content
        try:
            newer = self.file.stat().st_mtime > self.detector.model.stat().st_mtime
        except OSError:
            return None
        return content if newer else None


@cache
def _digest_at(path: Path, written: int) -> str:
    return digest_of(path)


def _digest(path: Path) -> str:
    """Read once, as long as the file stays the same."""
    return _digest_at(path, path.stat().st_mtime_ns)


def read_json(file: Path) -> dict[str, Any] | None:
    """None if there is no such file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}): delete it.") from error
