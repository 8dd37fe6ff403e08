"""Runs of the evidence benchmark that are made up, and its modules, for the tests of these."""

import json
import sys
from pathlib import Path

import numpy as np

from igam_d2.class_statistics import model_bias
from igam_d2.files import strict

TESTS = Path(__file__).parents[1]
PATHS = (TESTS.parent / "benchmarks", TESTS / "report")
sys.path[:0] = map(str, PATHS)
import study.class_figures as class_figures  # noqa: E402
import study.class_tables as class_tables  # noqa: E402
import study.comparison_tables as comparison_tables  # noqa: E402
import study.correlations as correlations  # noqa: E402
import study.drawing as drawing  # noqa: E402
import study.figures as figures  # noqa: E402
import study.margins_figure as margins_figure  # noqa: E402
import study.records as records  # noqa: E402
import study.stats as stats  # noqa: E402
import study.tables as tables  # noqa: E402
import synthetic  # noqa: E402
from study.cells import method_label, method_labels, seeds_cell, small_cell  # noqa: E402

for path in PATHS:
    sys.path.remove(str(path))

__all__ = ["GRID", "METHODS", "PUBLISHED", "READINGS", "SERIES", "SHRINKAGES", "benchmark",
           "cells", "check_json", "class_figures", "class_tables", "comparison_tables",
           "correlations", "drawing", "figures", "margins_figure", "method_label",
           "method_labels", "record", "records", "seeds_cell", "small_cell", "stats",
           "synthetic", "tables"]  # fmt: skip

READINGS, SHRINKAGES = ("paper", "mean_sqrt", "mean", "ratio"), ("none", "floor", "oas")
GRID = {(r, s): f"igam_{r}_{s}_s20" for r in READINGS for s in SHRINKAGES}
LARGEST = dict(zip(READINGS, (2e-3, 0.02, 0.12, 0.5), strict=True))
SERIES = {
    "cosine CE": {s: f"cosine_ce_s{s}" for s in (10, 20, 30, 40, 50)},
    "IGAM mean, OAS": {s: f"igam_mean_oas_s{s}" for s in (10, 20, 30, 40, 50)},
}
PUBLISHED = {10: {"AP": 16.8, "APr": 0.8}, 20: {"AP": 26.2, "APr": 17.6}, 40: {"AP": 25.9}}
METHODS = ["softmax_ce", "cosine_ce_s20", "igam_mean_none_s20", "igam_ratio_oas_s20", "c2am_s20",
           "seesaw", "eqlv2", "balanced_softmax", "softmax_ce_rfs", "igam_mean_oas_s20_rfs",
           "igam_mean_oas_s20_opposite"]  # fmt: skip


def record(method, seed, *, k=50, gain=0.0, kind="cached", noise=0.5, margins=True):
    """A run on k classes, the first the most frequent; two have no ground truth, and those of one
    training instance no information amount."""
    rng = np.random.default_rng(0)  # what all runs have in common
    counts = np.maximum(1, 1500 * np.exp(-7.5 * np.arange(k) / k)).round()
    groups = np.where(counts <= 10, "r", np.where(counts <= 100, "c", "f"))
    bits = 25 - 1.8 * np.log(counts) + rng.normal(0, 2.5, k)
    ap = 62 + 4 * np.log(counts) - 1.6 * bits + rng.normal(0, 7, k)
    rng = np.random.default_rng([seed, *method.encode()])
    ap = np.clip(ap + gain * (1 + (groups == "r")) + rng.normal(0, 4, k), 0, 100)
    ap = np.clip(ap + rng.normal(0, noise), 0, 100)
    ap[[7, k - 1]] = np.nan
    bias = model_bias(ap)
    metrics = {"AP": np.nanmean(ap), "bias std": bias["std"], "bias variance": bias["variance"]}
    for key in "rcf":
        metrics[f"AP{key}"] = np.nanmean(ap[groups == key])
    metrics["APr2"] = np.nanmean(ap[(groups == "r") & (counts >= 2)])
    found = None
    if margins and method.startswith("igam"):
        reading = next(r for r in ("mean_sqrt", *READINGS, "") if f"_{r}" in method)
        x = 250 * np.arange(1, 7)
        largest = LARGEST.get(reading, 0.1) * (1 - 0.6 * np.exp(-x / 500)) * rng.normal(1, 0.06, 6)
        sign = -1 if method.endswith("opposite") else 1
        found = records.Margins(x, largest, largest / 5, sign)
    return records.RunRecord(
        kind, method, seed, Path(kind) / method / f"seed{seed}",
        tuple(f"mesh_{i:03}" for i in range(k)), tuple(groups.tolist()),
        {"r": "rare", "c": "common", "f": "frequent"}, np.ceil(counts / 2), counts, ap,
        np.where(counts > 1, bits + rng.normal(0, 0.3, k), np.nan),
        {n: float(v) for n, v in metrics.items()}, found, 20.0, "oas", 1500,
    )  # fmt: skip


def benchmark(seeds=(1, 2, 3)):
    gains = {method: 0.7 * (i - 3) for i, method in enumerate(METHODS)}
    for i, method in enumerate(GRID.values()):
        gains[method] = 0.25 * i - 1
    for of in SERIES.values():
        for i, method in enumerate(of.values()):
            gains.setdefault(method, (-12, 0, -0.7, -2, -4)[i])
    gains["cosine_ce_s20"] = 0.0
    return [record(method, seed, gain=gain) for method, gain in gains.items() for seed in seeds]


def cells(markdown):
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def check_json(content):
    json.dumps(strict(content), allow_nan=False)
