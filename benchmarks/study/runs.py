"""The runs of evidence.py: whole detectors, their RoI features in caches, second stages on them."""

import json
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from run_queue import Job
from run_settings import check_settings

from igam_d2.config import load_config
from igam_d2.data.annotation_file import check_annotation_file
from igam_d2.errors import InputError
from study.plan import CACHED, FULL, REPEATED_IMAGES, Method, Step, softmax_ce

__all__ = ["CACHE_FILE", "SPLITS", "Experiment", "Run"]

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("selection", "test")
CACHE_FILE = "cache.json"
# Options that would be overridden, and what is to be done instead
OWN_OPTIONS = {
    "OUTPUT_DIR": "choose it with --output",
    "SEED": "choose seeds with --seeds",
    "SOLVER.MAX_ITER": "choose it with --full-iterations and --cached-iterations",
    "SOLVER.CHECKPOINT_PERIOD": "it follows from the iterations",
    "MODEL.WEIGHTS": "second stages begin with the detectors under --output",
    "MODEL.ROI_HEADS.NUM_CLASSES": "it is that of the data set",
}


@dataclass(eq=False, kw_only=True)
class Run(Job):
    """One method with one seed; its `result` has the AP of both splits."""

    method: Method
    seed: int
    cfg: CfgNode
    datasets: tuple[str, str]

    @property
    def results(self) -> list[str]:
        return [f"inference/{name}/results.json" for name in self.datasets]

    def found(self) -> dict[str, float] | None:
        """Of evaluations after the whole training."""
        try:
            trained = (self.folder / "model_final.pth").stat().st_mtime
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


@dataclass(eq=False, kw_only=True)
class Cache(Job):
    """RoI features of a whole detector."""

    def found(self) -> bool | None:
        return (self.folder / "rois" / CACHE_FILE).is_file() or None


class Experiment:
    """What all runs share.

    Args:
        config_file: the detector, with DATASETS.TEST the selection and the test split.
        output: folder of everything.
        seeds: of the detectors with softmax cross-entropy, and of the second stages on each.
        full_seeds: of the other whole detectors.
        iterations: by kind.
        passes: over the training set, that are cached.
        opts: for all runs.

    Raises:
        InputError: an option that this sets itself, no data.
    """

    def __init__(
        self,
        config_file: Path,
        output: Path,
        *,
        seeds: list[int],
        full_seeds: list[int],
        iterations: dict[str, int],
        passes: int,
        opts: list[str],
    ):
        for key in opts[::2]:
            if key in OWN_OPTIONS:
                raise InputError(f"Leave {key} out of the options after --: {OWN_OPTIONS[key]}.")
        self.config_file, self.output = config_file, output
        self.seeds, self.full_seeds = seeds, full_seeds
        self.iterations, self.passes = iterations, passes
        cfg = load_config(str(config_file), opts)
        self.datasets = tuple(cfg.DATASETS.TEST)
        if len(cfg.DATASETS.TRAIN) != 1 or len(self.datasets) != len(SPLITS):
            raise InputError(
                f"{config_file} has DATASETS.TRAIN {cfg.DATASETS.TRAIN} and DATASETS.TEST "
                f"{self.datasets}: the experiment needs one set for training, and those of the "
                "selection and the test split."
            )
        self._training_set = cfg.DATASETS.TRAIN[0]
        self._opts = [*opts, "MODEL.ROI_HEADS.NUM_CLASSES", str(len(self.categories))]
        if not torch.cuda.is_available():
            self._opts += ["MODEL.DEVICE", "cpu"]  # or each run would be told so
        self._runs: dict[tuple[str, str, int], Run] = {}
        self._caches: dict[int, Cache] = {}

    @cached_property
    def _training_file(self) -> dict[str, Any]:
        file = Path(MetadataCatalog.get(self._training_set).json_file)
        if not file.is_file():
            raise InputError(
                f"There is no {file}: make the data with tools/prepare_meshes_lt.py make, or set "
                "DETECTRON2_DATASETS to the folder that has them."
            )
        return check_annotation_file(str(file), annotated=False)

    @property
    def categories(self) -> list[dict[str, Any]]:
        return self._training_file["categories"]

    @property
    def num_images(self) -> int:
        return len(self._training_file["images"])

    def jobs(self, step: Step) -> list[Job]:
        """All runs of a step and what they need first, seed after seed of each method."""
        jobs: list[Job] = []
        for kind, method in step.runs:
            others = kind == FULL and method != softmax_ce()
            for seed in self.full_seeds if others else self.seeds:
                run = self.run(kind, method, seed)
                for job in (*run.needs, run):
                    if job not in jobs:
                        jobs.append(job)
        return jobs

    def run(self, kind: str, method: Method, seed: int) -> Run:
        """
        Raises:
            InputError: it was begun with other settings.
        """
        if (known := self._runs.get((kind, method.name, seed))) is not None:
            return known
        folder = self.output / kind / method.name / f"seed{seed}"
        opts = [*self._opts, *method.opts]
        if method.repeats:
            threshold = REPEATED_IMAGES / self.num_images
            opts += ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"]
            opts += ["DATALOADER.REPEAT_THRESHOLD", f"{threshold:.6f}"]
        iterations = self.iterations[kind]
        opts += ["OUTPUT_DIR", str(folder), "SEED", str(seed), "SOLVER.MAX_ITER", str(iterations)]
        opts += ["SOLVER.CHECKPOINT_PERIOD", str(iterations)]
        needs: tuple[Job, ...] = ()
        if kind == CACHED:
            cache = self._cache(seed)
            needs = (*cache.needs, cache)
            script = ["benchmarks/train_cached.py", "--cache", str(cache.folder / "rois")]
        else:
            script = ["train_net.py"]
        run = Run(
            name=f"{kind} {method.name}, seed {seed}",
            folder=folder,
            command=self._command(script, ["--resume"], opts),
            needs=needs,
            kind=kind,
            method=method,
            seed=seed,
            cfg=load_config(str(self.config_file), opts),
            datasets=self.datasets,
        )
        check_settings(folder, run.cfg, run.results)
        run.result = run.found()
        self._runs[kind, method.name, seed] = run
        return run

    def _cache(self, seed: int) -> Cache:
        if seed not in self._caches:
            detector = self.run(FULL, softmax_ce(), seed)
            folder = self.output / "cache" / f"seed{seed}"
            opts = [*self._opts, *detector.method.opts]
            opts += ["MODEL.WEIGHTS", str(detector.folder / "model_final.pth")]
            opts += ["SEED", str(seed), "OUTPUT_DIR", str(folder)]
            cache = Cache(
                name=f"RoI features, seed {seed}",
                folder=folder,
                command=self._command(
                    ["benchmarks/train_cached.py", "--cache", str(folder / "rois")],
                    ["--write-cache", str(self.passes)],
                    opts,
                ),
                needs=(detector,),
                kind="cache",
            )
            cache.result = cache.found()
            self._caches[seed] = cache
        return self._caches[seed]

    def _command(self, script: list[str], flags: list[str], opts: list[str]) -> list[str]:
        program = [sys.executable, str(ROOT / script[0]), *script[1:], *flags]
        return [*program, "--config-file", str(self.config_file), *opts]
