"""The runs of a benchmark of classification losses, read from `<output>/<kind>/<method>/seed<n>/`.

Needs neither torch nor Detectron2. All AP is in %.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from igam_d2.errors import InputError
from igam_d2.report.run_folder import load_run, read_lines

__all__ = [
    "CLASS_METRICS",
    "METRICS",
    "Margins",
    "RunRecord",
    "load_record",
    "load_records",
    "metric_classes",
    "select",
]

# Means over classes. APr2 is of the rare ones with at least two training instances: one instance
# has no covariance, so that its class has neither an information amount nor a margin.
CLASS_METRICS = ("AP", "APr", "APr2", "APc", "APf")
METRICS = (*CLASS_METRICS, "bias std", "bias variance")
_SEED = re.compile(r"seed(\d+)")


@dataclass(frozen=True, eq=False)
class Margins:
    """Of the N refreshes of a run, the magnitudes of the margins of the pairs i != j of classes.

    Attributes:
        iterations: (N,).
        largest, mean: (N,) radians, of max(0, u_i - u_j) over the classes with a potential; zero
            where fewer than two have one.
        sign: -1 where the loss subtracts them, else 1.
    """

    iterations: np.ndarray
    largest: np.ndarray
    mean: np.ndarray
    sign: int


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A run that was evaluated on one data set.

    Attributes:
        kind: "full" or "cached".
        class_groups: (K,) keys of the groups, "r", "c" and "f", or None.
        groups: key -> name, the rarest first.
        image_count, instance_count: (K,) of training, NaN where not known.
        class_ap: (K,) in %, NaN for a class without ground truth, which enters nothing.
        information: (K,) bits of the last refresh, NaN where not known.
        metrics: of METRICS, NaN where there is no ground truth; bias variance in %².
        margins: None for a loss without.
        scale: s of the loss, None where it has none or no config was left.
        shrinkage: of the covariances that the information amounts are of, None where not known.
        max_iter: iterations of training, None where not known.
    """

    kind: str
    method: str
    seed: int
    folder: Path
    class_names: tuple[str, ...]
    class_groups: tuple[str | None, ...]
    groups: dict[str, str]
    image_count: np.ndarray
    instance_count: np.ndarray
    class_ap: np.ndarray
    information: np.ndarray
    metrics: dict[str, float]
    margins: Margins | None = None
    scale: float | None = None
    shrinkage: str | None = None
    max_iter: int | None = None

    @property
    def used_margins(self) -> Margins | None:
        """Those with which a step was trained; None where there is none.

        A refresh comes after the step whose number it has: one at the last iteration is never used.
        """
        if self.margins is None or self.max_iter is None:
            return self.margins
        used = self.margins.iterations < self.max_iter
        if not used.any():
            return None
        rows = (self.margins.iterations, self.margins.largest, self.margins.mean)
        return Margins(*(row[used] for row in rows), self.margins.sign)


def metric_classes(run: RunRecord, metric: str) -> np.ndarray:
    """(K,) bool, the classes that one of CLASS_METRICS is the mean over, if they have an AP."""
    if metric == "AP":
        return np.full(len(run.class_names), True)
    return _rule(metric, run.class_groups, run.instance_count)


def _rule(
    metric: str, class_groups: Sequence[str | None], instance_count: np.ndarray
) -> np.ndarray:
    of_group = np.array([key == metric[2] for key in class_groups])
    return of_group & (instance_count >= 2) if metric == "APr2" else of_group


def select(
    records: Iterable[RunRecord], method: str | None = None, kind: str | None = None
) -> list[RunRecord]:
    """Those of a method and of a kind, None being any, by seed.

    Raises:
        InputError: if a method has a seed twice, as in both kinds: what is averaged over seeds must
            be of one kind.
    """
    chosen = [
        record
        for record in records
        if method in (None, record.method) and kind in (None, record.kind)
    ]
    chosen.sort(key=lambda record: record.seed)
    seen: dict[tuple[str, int], RunRecord] = {}
    for record in chosen:
        other = seen.setdefault((record.method, record.seed), record)
        if other is not record:
            raise InputError(
                f"{record.folder} and {other.folder} are both of {record.method}, seed "
                f"{record.seed}: compare the runs of one kind."
            )
    return chosen


def load_record(folder: str | Path, dataset: str) -> RunRecord | None:
    """The run in `<kind>/<method>/seed<seed>`; None if it was not evaluated on that data set (yet).

    Raises:
        InputError: if the folder has another name, or its results cannot be read.
    """
    folder = Path(folder)
    place = folder.absolute().parts[-3:]
    seed = _SEED.fullmatch(place[-1])
    if len(place) < 3 or not seed:
        raise InputError(f"{folder} is not the folder of a run: <kind>/<method>/seed<number>.")
    if not (folder / "inference" / dataset / "results.json").is_file():
        return None
    run = load_run(folder, dataset)
    try:
        found, bias = run.metrics["bbox"], run.results["bias"]["bbox"]
        found = {**found, "bias std": bias["std"], "bias variance": bias["variance"]}
        metrics = {name: _number(found[name]) for name in METRICS if name != "APr2"}
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{run.results_file} has no {error}: evaluate the boxes of data in the format lvis."
        ) from error
    groups = tuple(record["group"] for record in run.classes)
    instance_count, class_ap = run.column("instance_count"), run.class_ap("bbox")
    metrics["APr2"] = _mean(class_ap[_rule("APr2", groups, instance_count)])
    bits = run.information()
    config = _load_config(folder / "config.yaml")
    loss = _setting(config, "MODEL", "ROI_BOX_HEAD", "CLS_LOSS", "NAME")
    scale = _setting(config, "MODEL", "ROI_BOX_HEAD", "CLS_LOSS", loss, "SCALE")
    shrinkage = _setting(config, "MODEL", "IGAM", "SHRINKAGE")
    max_iter = _setting(config, "SOLVER", "MAX_ITER")
    return RunRecord(
        kind=place[0],
        method=place[1],
        seed=int(seed[1]),
        folder=folder,
        class_names=tuple(run.class_names),
        class_groups=groups,
        groups={group["key"]: group["name"] for group in run.groups},
        image_count=run.column("image_count"),
        instance_count=instance_count,
        class_ap=class_ap,
        information=np.full(len(run.classes), math.nan) if bits is None else bits,
        metrics=metrics,
        margins=_load_margins(folder / "information.jsonl", len(run.classes)),
        scale=float(scale) if isinstance(scale, int | float) else None,
        shrinkage=shrinkage if isinstance(shrinkage, str) else None,
        max_iter=max_iter if isinstance(max_iter, int) else None,
    )


def load_records(output: str | Path, dataset: str) -> list[RunRecord]:
    """All runs below `output` that were evaluated, by kind, method and seed.

    Raises:
        InputError: as :func:`load_record`, or if the runs are not of the same classes.
    """
    folders = [p for p in Path(output).glob("*/*/seed*") if _SEED.fullmatch(p.name)]
    loaded = [load_record(folder, dataset) for folder in folders]
    records = [record for record in loaded if record is not None]
    records.sort(key=lambda record: (record.kind, record.method, record.seed))
    _check_classes(records)
    return records


def _load_margins(path: Path, num_classes: int) -> Margins | None:
    lines = [
        line
        for line in read_lines(path)
        if isinstance(line.get("potentials"), list) and len(line["potentials"]) == num_classes
    ]
    if not lines:
        return None
    # Of a cascade the last stage, which decides most; after resuming, the later line counts
    names = {str(line.get("predictor", "")) for line in lines}
    last = max(names, key=lambda name: (len(name), name))
    rows = {line["iteration"]: line for line in lines if str(line.get("predictor", "")) == last}
    iterations = sorted(rows)
    summaries = [_margin_summary(rows[i]["potentials"]) for i in iterations]
    return Margins(
        iterations=np.array(iterations),
        largest=np.array([largest for largest, _ in summaries]),
        mean=np.array([mean for _, mean in summaries]),
        sign=-1 if rows[iterations[-1]].get("margin_sign") == -1 else 1,
    )


def _margin_summary(potentials: Sequence[float | None]) -> tuple[float, float]:
    """Largest and mean of max(0, u_i - u_j) over the pairs i != j of finite potentials."""
    u = np.array([_number(value) for value in potentials])
    u = u[np.isfinite(u)]
    if len(u) < 2:
        return 0.0, 0.0
    rise = np.maximum(u[:, None] - u[None, :], 0)  # zero on the diagonal
    return float(rise.max()), float(rise.sum() / (len(u) * (len(u) - 1)))


def _load_config(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return None


def _setting(config: Any, *keys: Any) -> Any:
    """None where it is not there."""
    for key in keys:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _mean(values: np.ndarray) -> float:
    """Of those that are known."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _number(value: Any) -> float:
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if known else math.nan


def _check_classes(records: Sequence[RunRecord]) -> None:
    for record in records[1:]:
        same = (
            record.class_names == records[0].class_names
            and record.class_groups == records[0].class_groups
        )
        if not same:
            raise InputError(
                f"The classes of {record.folder} are not those of {records[0].folder}: compare "
                "runs that were evaluated on the same annotations."
            )
