"""The runs of evidence.py: whole detectors, their RoI features in caches, second stages on them."""

import datetime
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from cached_rois.cache import annotation_digests
from detectron2.data import MetadataCatalog
from measure import hardware
from run_queue import Job
from run_settings import check_settings

from igam_d2 import __version__
from igam_d2.config import load_config
from igam_d2.data.annotation_file import check_annotation_file
from igam_d2.errors import InputError
from igam_d2.files import write_json
from study.jobs import SPLITS, Cache, Measurement, Run, read_json
from study.plan import (
    CACHED,
    FULL,
    REPEATED_IMAGES,
    Choice,
    Method,
    Step,
    cosine_ce,
    softmax_ce,
)

__all__ = ["ROOT", "SPLITS", "Experiment", "Run"]

ROOT = Path(__file__).resolve().parents[2]
# Options that would be overridden, and what is to be done instead
OWN_OPTIONS = {
    "OUTPUT_DIR": "choose it with --output",
    "SEED": "choose seeds with --seeds",
    "SOLVER.MAX_ITER": "choose it with --full-iterations and --cached-iterations",
    "SOLVER.CHECKPOINT_PERIOD": "it follows from the iterations",
    "MODEL.DEVICE": "choose it with --gpus",
    "MODEL.WEIGHTS": "second stages begin with the detectors under --output",
    "MODEL.ROI_HEADS.NUM_CLASSES": "it is that of the data set",
}


def _splits(names: Sequence[str]) -> tuple[str, ...]:
    """The names of DATASETS.TEST in the order of SPLITS.

    Raises:
        InputError: which is which cannot be told.
    """
    found = [[name for name in names if split in name] for split in SPLITS]
    if len(names) != len(SPLITS) or sorted(map(len, found)) != [1, 1] or found[0] == found[1]:
        raise InputError(
            f"DATASETS.TEST is {tuple(names)}: the experiment needs two sets, one with 'selection' "
            "and one with 'test' in its name."
        )
    return tuple(name for (name,) in found)


class Experiment:
    """What all runs share.

    Args:
        config_file: the detector, with DATASETS.TEST the selection and the test split, in any
            order, which have these words in their names.
        output: folder of everything.
        seeds: of the detectors with softmax cross-entropy, and of the second stages on each.
        full_seeds: of the other whole detectors.
        iterations: by kind.
        passes: over the training set, that are cached.
        opts: for all runs.
        gpus: that the runs take in turn; 0 for the CPU.

    Attributes:
        datasets: names of the selection and of the test split.
        facts: of experiment.json, from :meth:`begin` on.

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
        gpus: int = 0,
    ):
        for key in opts[::2]:
            if key in OWN_OPTIONS:
                raise InputError(f"Leave {key} out of the options after --: {OWN_OPTIONS[key]}.")
        self.config_file, self.output = config_file, output
        self.seeds, self.full_seeds = seeds, full_seeds
        self.iterations, self.passes = iterations, passes
        self._device = "cuda" if gpus else "cpu"
        opts = [*opts, "MODEL.DEVICE", self._device]
        self._cfg = load_config(str(config_file), opts)
        self.datasets = _splits(self._cfg.DATASETS.TEST)
        if len(self._cfg.DATASETS.TRAIN) != 1:
            raise InputError(
                f"DATASETS.TRAIN is {self._cfg.DATASETS.TRAIN}: the experiment needs one set."
            )
        self._opts = [*opts, "MODEL.ROI_HEADS.NUM_CLASSES", str(len(self.categories))]
        self.facts: dict[str, Any] = {}
        self._runs: dict[tuple[str, str, int], Run] = {}
        self._caches: dict[int, Cache] = {}

    def begin(self, *, write: bool = True) -> None:
        """Reads experiment.json, with the facts of the first start, or writes it.

        Args:
            write: else it is not written, if there is none.

        Raises:
            InputError: the data are not those of the first start.
        """
        digests = annotation_digests(self._cfg)
        file = self.output / "experiment.json"
        if (found := read_json(file)) is not None:
            for name in sorted(digests.keys() | found.get("annotations", {}).keys()):
                if found.get("annotations", {}).get(name) != digests.get(name):
                    raise InputError(
                        f"The annotations of {name!r} are not those that {self.output} was begun "
                        "with: choose another --output, or make the same data again."
                    )
            self.facts = found
            return
        self.facts = {
            "version": __version__,
            "torch": torch.__version__,
            "hardware": hardware(self._device),
            "date": datetime.date.today().isoformat(),
            "num_classes": len(self.categories),
            "num_training_images": self.num_images,
            "iterations": self.iterations,
            "passes": self.passes,
            "annotations": digests,
        }
        if write:
            self.output.mkdir(parents=True, exist_ok=True)
            write_json(file, self.facts)

    @cached_property
    def _training_file(self) -> dict[str, Any]:
        for name in (*self._cfg.DATASETS.TRAIN, *self.datasets):
            file = Path(MetadataCatalog.get(name).json_file)
            if not file.is_file():
                raise InputError(
                    f"There is no {file}: make the data with tools/prepare_meshes_lt.py make, or "
                    "set DETECTRON2_DATASETS to the folder that has them."
                )
        file = MetadataCatalog.get(self._cfg.DATASETS.TRAIN[0]).json_file
        return check_annotation_file(file, annotated=False)

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
            InputError: it was begun with other settings, or is to be trained on a cache that was.
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
        cache = self._cache(seed) if kind == CACHED else None
        if cache is not None:
            script = ["benchmarks/train_cached.py", "--cache", str(cache.rois)]
        else:
            script = ["train_net.py"]
        run = Run(
            name=f"{kind} {method.name}, seed {seed}",
            folder=folder,
            command=self._command(script, ["--resume"], opts),
            needs=(*cache.needs, cache) if cache is not None else (),
            kind=kind,
            method=method,
            seed=seed,
            cfg=load_config(str(self.config_file), opts),
            datasets=self.datasets,
            cache=cache,
        )
        check_settings(folder, run.cfg, run.results)
        run.result = run.found()
        self._runs[kind, method.name, seed] = run
        return run

    def measurements(self, choice: Choice) -> list[Measurement]:
        """What estimates of information amounts are worth: in theory, and on the whole detectors
        without margins."""
        folder = self.output / "estimators"
        program = [sys.executable, str(ROOT / "benchmarks" / "estimator_bias.py")]
        jobs = [
            Measurement(
                name="estimators against n",
                folder=folder,
                command=[*program, "--output", str(folder)],
                kind="estimators",
                file=folder / "table.json",
            )
        ]
        methods = [softmax_ce(), *([] if choice.scale is None else [cosine_ce(choice.scale)])]
        for method in methods:
            jobs += [self._information(method, seed) for seed in self.full_seeds]
        for job in jobs:
            job.result = job.found()
        return jobs

    def _information(self, method: Method, seed: int) -> Measurement:
        detector = self.run(FULL, method, seed)
        folder = self.output / "information" / method.name / f"seed{seed}"
        script = ["benchmarks/evidence_information.py", "--train", self._cfg.DATASETS.TRAIN[0]]
        script += ["--balanced", self.datasets[0], "--output", str(folder / "information.json")]
        script += ["--results", str(detector.folder / detector.results[1])]
        json_file = Path(MetadataCatalog.get(self._cfg.DATASETS.TRAIN[0]).json_file)
        if (diversity := json_file.parents[1] / "diversity.json").is_file():
            script += ["--diversity", str(diversity)]
        opts = [*self._opts, *method.opts, "MODEL.WEIGHTS", str(detector.model)]
        return Measurement(
            name=f"information amounts of full {method.name}, seed {seed}",
            folder=folder,
            command=self._command(script, [], opts),
            needs=(detector,),
            kind="information",
            file=folder / "information.json",
            detector=detector,
        )

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
                detector=detector,
                passes=self.passes,
                seed=seed,
            )
            cache.result = cache.found()
            self._caches[seed] = cache
        return self._caches[seed]

    def _command(self, script: list[str], flags: list[str], opts: list[str]) -> list[str]:
        program = [sys.executable, str(ROOT / script[0]), *script[1:], *flags]
        return [*program, "--config-file", str(self.config_file), *opts]
