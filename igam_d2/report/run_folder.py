"""What runs left in their folders, read without Detectron2 and without torch."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from igam_d2.errors import InputError

EVALUATE = (
    "evaluate again with `python train_net.py --config-file ... --eval-only MODEL.WEIGHTS ...`"
)


@dataclass(frozen=True)
class InformationHistory:
    """N refreshes of the last predictor, which in a cascade decides most.

    Attributes:
        iterations: (N,).
        information: (N, K) bits, NaN for a class without an estimate.
        potentials: (K,) radians of the last refresh, NaN for a class without margins; or None.
        margin_sign: 1 or -1, which all margins are multiplied by.
    """

    iterations: np.ndarray
    information: np.ndarray
    potentials: np.ndarray | None
    margin_sign: float


@dataclass(frozen=True)
class LearningCurve:
    """Training scalars (N,), NaN where one was not logged; the accuracy is in [0, 1].

    `evaluations` maps "bbox/AP" and "segm/AP" to iterations and values in %, (M,) each.
    """

    iterations: np.ndarray
    total_loss: np.ndarray
    foreground_accuracy: np.ndarray
    evaluations: dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Run:
    """A run that was evaluated: its ``results.json``, and what it logged.

    Attributes:
        metrics: task -> metric -> value in %, None where there is no ground truth.
        groups: of classes, the rarest first: ``key``, ``name``, ``rule``, ``metric``.
        classes: the K records in contiguous order: ``id``, ``name``, ``group``, ``image_count``
            and ``instance_count`` of training, ``val_instances``, ``information``, ``AP`` per task.
        results: all of ``results.json``.
    """

    folder: Path
    name: str
    results_file: Path
    dataset: str
    metrics: dict[str, dict[str, float | None]]
    groups: list[dict[str, str]]
    classes: list[dict[str, Any]]
    results: dict[str, Any]
    history: InformationHistory | None
    curve: LearningCurve | None

    @property
    def class_names(self) -> list[str]:
        return [record["name"] for record in self.classes]

    @property
    def class_metric(self) -> str:
        return self.results.get("class_metric") or "AP"

    def column(self, key: str) -> np.ndarray:
        """(K,) numbers of the class records, NaN for null."""
        return np.array([_number(record.get(key)) for record in self.classes])

    def class_ap(self, task: str) -> np.ndarray:
        """(K,) in %, NaN for a class without ground truth."""
        return np.array([_number(record["AP"].get(task)) for record in self.classes])

    def information(self) -> np.ndarray | None:
        """(K,) bits as evaluated, or else of the last refresh; None if there is none."""
        bits = self.column("information")
        if not np.isfinite(bits).any() and self.history is not None:
            bits = self.history.information[-1]
        return bits if np.isfinite(bits).any() else None


def load_runs(
    folders: Sequence[str | Path], dataset: str | None = None
) -> tuple[list[Run], list[str]]:
    """Read run folders: the runs of one data set, and a sentence for each that is left out.

    Args:
        folders: each the ``OUTPUT_DIR`` of a training or an evaluation.
        dataset: of the evaluated ones; None is what the first readable run evaluated last.
    """
    unique = list(dict.fromkeys(Path(folder).resolve() for folder in folders))
    runs, problems = [], []
    for folder, name in zip(unique, distinct_names(unique), strict=True):
        try:
            run = load_run(folder, dataset or (runs[0].dataset if runs else None))
            if runs:
                _check_same_classes(run, runs[0])
            runs.append(replace(run, name=name))
        except InputError as error:
            problems.append(str(error))
    return runs, problems


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Of each of several different folders so many last parts as no two have in common."""
    names = []
    for folder in folders:
        length = 1
        while sum(other.parts[-length:] == folder.parts[-length:] for other in folders) > 1:
            length += 1
        names.append("/".join(folder.parts[-length:]))
    return names


def load_run(folder: str | Path, dataset: str | None = None) -> Run:
    """Read a run folder.

    Raises:
        InputError: if it holds no whole evaluation of that data set.
    """
    folder = Path(folder)
    path = _find_results(folder, dataset)
    results = _read_results(path)
    num_classes = len(results["classes"])
    return Run(
        folder=folder,
        name=folder.resolve().name,
        results_file=path,
        dataset=results["dataset"],
        metrics={
            task: {name: None if math.isnan(_number(v)) else v for name, v in metrics.items()}
            for task, metrics in results["metrics"].items()
        },
        groups=results.get("groups") or [],
        classes=results["classes"],
        results=results,
        history=_load_history(folder / "information.jsonl", num_classes),
        curve=_load_curve(folder / "metrics.json", results["dataset"]),
    )


def _find_results(folder: Path, dataset: str | None) -> Path:
    found = list(folder.glob("inference/*/results.json"))
    chosen = [path for path in found if dataset in (None, path.parent.name)]
    if chosen:
        return max(chosen, key=lambda path: (path.stat().st_mtime, path))
    wanted = folder / "inference" / (dataset or "<dataset>") / "results.json"
    others = sorted(path.parent.name for path in found)
    instead = f" (there is one of {', '.join(others)})" if others else ""
    raise InputError(
        f"No evaluation in {folder}{instead}: {wanted} is missing, which `python train_net.py "
        f"--config-file {folder}/config.yaml --eval-only MODEL.WEIGHTS {folder}/model_final.pth` "
        "writes."
    )


def _read_results(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not whole JSON ({error}): {EVALUATE}.") from error
    try:
        first = results["classes"][0]
        if "frequency" in first and "group" not in first:
            raise InputError(f"{path} was written by an older version: {EVALUATE}.")
        for record in results["classes"]:
            record["id"], record["name"], record["group"], record["AP"].items()
        for group in results.get("groups") or []:
            group["key"], group["name"], group["metric"]
        results["dataset"], [metrics.items() for metrics in results["metrics"].values()]
        if not results["metrics"]:
            raise KeyError("a metric")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not the results of an evaluation ({type(error).__name__}: {error}): "
            f"{EVALUATE}."
        ) from error
    return results


def _check_same_classes(run: Run, first: Run) -> None:
    def classes(r: Run) -> list[tuple[int, str]]:
        return [(record["id"], record["name"]) for record in r.classes]

    if run.dataset != first.dataset:
        raise InputError(
            f"{run.results_file} is of {run.dataset}, not of {first.dataset} as "
            f"{first.results_file}: give the runs of one data set, or evaluate on {first.dataset}."
        )
    if classes(run) != classes(first):
        raise InputError(
            f"The classes of {run.results_file} are not those of {first.results_file}, though both "
            f"are called {run.dataset}: evaluate both on the same annotations."
        )


def _load_history(path: Path, num_classes: int) -> InformationHistory | None:
    lines = []
    for line in read_lines(path):
        bits, potentials = line.get("information"), line.get("potentials")
        if all(_is_row(v, num_classes) for v in (bits, bits if potentials is None else potentials)):
            lines.append(line)
    if not lines:
        return None
    last = max((str(line.get("predictor", "")) for line in lines), key=_natural_key)
    rows = {
        line["iteration"]: line for line in lines if str(line.get("predictor", "")) == last
    }  # after resuming, the later line counts
    lines = [rows[i] for i in sorted(rows)]
    potentials = lines[-1].get("potentials")
    return InformationHistory(
        iterations=np.array([line["iteration"] for line in lines]),
        information=np.array([line["information"] for line in lines], dtype=np.float64),
        potentials=None if potentials is None else np.array(potentials, dtype=np.float64),
        margin_sign=-1 if lines[-1].get("margin_sign") == -1 else 1,
    )


def _is_row(values: Any, num_classes: int) -> bool:
    """Whether this is a list of a number or null for each class."""
    return (
        isinstance(values, list)
        and len(values) == num_classes
        and all(value is None or isinstance(value, int | float) for value in values)
    )


def _natural_key(name: str) -> list[tuple[int, str]]:
    """Predictor 10 comes after predictor 9."""
    return [
        (int(part or 0), "") if i % 2 else (0, part)
        for i, part in enumerate(re.split(r"(\d+)", name))
    ]


def _load_curve(path: Path, dataset: str) -> LearningCurve | None:
    """What the last training logged; of several test sets, AP on this one."""
    rows, last, evaluations = {}, None, {}
    for line in read_lines(path):
        i = line["iteration"]
        if "total_loss" in line:  # an evaluation between two logs has a line of its own
            if last is not None and i <= last:  # resumed, or begun anew: what followed is undone
                for of in (rows, *evaluations.values()):
                    for undone in [j for j in of if j >= i]:
                        del of[undone]
            rows[i], last = line, i
        for key, value in line.items():
            if key.endswith(("bbox/AP", "segm/AP")) and math.isfinite(_number(value)):
                evaluations.setdefault(key, {})[i] = value
    tasks = ("bbox/AP", "segm/AP")
    found = {key: evaluations.get(f"{dataset}/{key}") or evaluations.get(key) for key in tasks}
    evaluations = {key: of for key, of in found.items() if of}
    if not rows and not evaluations:
        return None
    lines = [rows[i] for i in sorted(rows)]
    # RoI heads and DETR log it; a cascade one a stage: the last stage's.
    keys = {key for line in lines for key in line if key.endswith("fg_cls_accuracy")}
    accuracy = max(keys, default="", key=_natural_key)
    return LearningCurve(
        iterations=np.array([line["iteration"] for line in lines]),
        total_loss=np.array([_number(line["total_loss"]) for line in lines]),
        foreground_accuracy=np.array([_number(line.get(accuracy)) for line in lines]),
        evaluations={
            key: (np.array(sorted(of)), np.array([of[i] for i in sorted(of)], dtype=np.float64))
            for key, of in evaluations.items()
        },
    )


def read_lines(path: Path) -> Iterable[dict[str, Any]]:
    """The objects of a file with one a line; a line cut off by the end of a process is left out."""
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as f:
        for line in f:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict) and isinstance(record.get("iteration"), int):
                yield record


def _number(value: Any) -> float:
    """NaN for null and for what is no number."""
    finite = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if finite else math.nan
