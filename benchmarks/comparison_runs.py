"""The runs of compare_losses.py: what each one is, and what it has left on disk."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from comparison_table import DATASET, read_metrics
from detectron2.config import CfgNode
from run_queue import Job
from run_settings import differing_settings

from igam_d2.config import load_config
from igam_d2.errors import InputError
from igam_d2.loss_config import cls_loss_class

__all__ = ["BASELINE", "RESULTS", "ROOT", "Run", "names_of_configs", "plan"]

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs" / "Digits-LT"
BASELINE = "softmax_ce"
RESULTS = f"inference/{DATASET}/results.json"
# Options that would be overridden, and what is to be done instead
OWN_OPTIONS = {
    "OUTPUT_DIR": "choose it with --output",
    "SEED": "choose seeds with --seeds",
    "SOLVER.MAX_ITER": "choose it with --iterations",
    "SOLVER.CHECKPOINT_PERIOD": "it follows from --iterations",
    "MODEL.WEIGHTS": f"second stages and calibrations begin with {BASELINE} under --output",
}
# Settings by which an evaluation of the baseline's model may differ from its training
OF_EVALUATION = ("TEST.CALIBRATION.", "OUTPUT_DIR", "MODEL.WEIGHTS")
# Stopped in an orderly way a run writes a checkpoint; this is for one that is not.
CHECKPOINT_PERIOD = 1000


@dataclass(eq=False, kw_only=True)
class Run(Job):
    """One method with one seed; its `result` are the metrics of the evaluation after it."""

    method: str
    seed: int
    opts: list[str]
    cfg: CfgNode | None = None
    detector: "Run | None" = None  # whose model it begins with
    trains: bool = True

    @property
    def config_file(self) -> Path:
        return CONFIGS / f"{self.method}.yaml"

    @property
    def model(self) -> Path:
        return self.folder / "model_final.pth"

    def found(self) -> dict[str, float | None] | None:
        """The metrics of an evaluation after the whole training."""
        results = self.folder / RESULTS
        model = self.model if self.trains else self.detector.model
        try:
            later = results.stat().st_mtime >= model.stat().st_mtime
        except OSError:
            return None
        return read_metrics(self.folder) if later else None

    def said(self) -> str:
        return f"AP {self.result['AP']:.1f}"


def names_of_configs() -> list[str]:
    return sorted(f.stem for f in CONFIGS.glob("*.yaml") if not f.stem.startswith("Base"))


def plan(
    methods: Sequence[str], seeds: Sequence[int], iterations: int, output: Path, opts: list[str]
) -> list[Run]:
    """All runs, seed after seed, with the softmax baseline first if it is chosen or needed.

    Raises:
        InputError: an option that this sets itself.
    """
    for key in opts[::2]:
        if key in OWN_OPTIONS:
            raise InputError(f"Leave {key} out of the options after --: {OWN_OPTIONS[key]}.")
    runs: list[Run] = []
    for seed in seeds:
        folder = output / f"seed{seed}"
        baseline = _run(BASELINE, seed, iterations, folder, opts)
        others = [
            _run(method, seed, iterations, folder, opts, baseline)
            for method in methods
            if method != BASELINE
        ]
        needed = BASELINE in methods or any(run.detector for run in others)
        runs += [*([baseline] if needed else []), *others]
    return runs


def _run(
    method: str,
    seed: int,
    iterations: int,
    folder: Path,
    opts: list[str],
    baseline: Run | None = None,
) -> Run:
    own = {
        "OUTPUT_DIR": folder / method,
        "SEED": seed,
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.CHECKPOINT_PERIOD": min(iterations, CHECKPOINT_PERIOD),
    }
    if not torch.cuda.is_available():
        own["MODEL.DEVICE"] = "cpu"  # or each run would be told so
    opts = opts + [str(part) for item in own.items() for part in item]
    run = Run(
        name=f"{method}, seed {seed}", folder=folder / method, method=method, seed=seed, opts=opts
    )
    try:
        run.cfg = load_config(str(run.config_file), run.opts)
        second_stage = cls_loss_class(run.cfg).second_stage
        if baseline is not None and (second_stage or _calibrates(run.cfg, baseline.cfg)):
            run.detector, run.trains = baseline, second_stage
            run.needs = (baseline,)
            run.opts += ["MODEL.WEIGHTS", str(baseline.model)]
            run.cfg = load_config(str(run.config_file), run.opts)
    except InputError as error:
        run.problem = str(error)
    run.kind = "training" if run.trains else "evaluation"
    how = "--resume" if run.trains else "--eval-only"
    train_net = [sys.executable, str(ROOT / "train_net.py"), how]
    run.command = [*train_net, "--config-file", str(run.config_file), *run.opts]
    return run


def _calibrates(cfg: CfgNode, baseline: CfgNode | None) -> bool:
    """Whether it is the baseline's model with other scores at test time."""
    node = cfg.TEST.CALIBRATION
    if baseline is None or not (node.NORCAL_GAMMA > 0 or node.TAU > 0):
        return False
    return all(key.startswith(OF_EVALUATION) for key in differing_settings(cfg, baseline))
