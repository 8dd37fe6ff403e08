"""Rank correlations of what evidence_information.py measured, and its tables in markdown."""

import math
import statistics
from typing import Any

import numpy as np

from igam_d2.class_statistics import correlation
from igam_d2.functional import SHRINKAGES
from study.estimator_page import github_table
from study.stats import partial_spearman

__all__ = ["correlation_table", "correlations", "markdown", "over_seeds", "subsample_table"]


def correlations(classes: list[dict[str, Any]]) -> dict[str, Any]:
    """Rank correlations over the class records.

    Returns:
        For "info_train" and "info_balanced", then each estimate, then what it is compared with:
        `spearman`, [value, low, high] with the 95% interval, and `num_classes`. "AP | log_n_train"
        is the partial correlation with AP given the log of the count. Under "others" the same of
        "log_n_train", "diversity" and "AP" with each other.
    """

    def column(*keys: str) -> np.ndarray:
        values = list(classes)
        for key in keys:
            values = [value[key] for value in values]
        return np.array([math.nan if v is None else v for v in values], dtype=np.float64)

    counts = column("n_train")
    log_n = np.log(counts, out=np.full(len(counts), math.nan), where=counts > 0)
    others = {"log_n_train": log_n, "diversity": column("diversity"), "AP": column("AP")}

    def rank(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        found = correlation(x, y)
        return {key: found[key] for key in ("spearman", "num_classes")}

    found: dict[str, Any] = {}
    for split in ("info_train", "info_balanced"):
        found[split] = {}
        for key in SHRINKAGES:
            bits, with_ = column(split, key), {}
            if split == "info_train":
                with_ = {
                    "info_balanced": column("info_balanced", key),
                    "info_balanced oas": column("info_balanced", "oas"),
                }
            entry = {name: rank(bits, y) for name, y in (with_ | others).items()}
            known = np.isfinite([bits, others["AP"], log_n]).all(axis=0)
            entry["AP | log_n_train"] = {
                "spearman": partial_spearman(bits, others["AP"], log_n),
                "num_classes": int(known.sum()),
            }
            found[split][key] = entry
    pairs = (("log_n_train", "diversity"), ("log_n_train", "AP"), ("diversity", "AP"))
    found["others"] = {f"{a}, {b}": rank(others[a], others[b]) for a, b in pairs}
    return found


def markdown(content: dict[str, Any]) -> str:
    """The page with the tables of each predictor."""
    images = content["num_images"]
    return "\n".join(
        [
            "# What the estimates of information amounts measure",
            "",
            f"Weights {content['weights']}; {images['train']:,} images of {content['train']}, and "
            f"{images['balanced']:,} of {content['balanced']} with the first "
            f"{content['per_class']:,} instances of each class.",
            "",
            "## Rank correlations over the classes",
            "",
            "Spearman's, with the 95% interval over classes. info_balanced is by the same estimate "
            "on the balanced set, info_balanced oas by `oas` whatever the estimate; AP | "
            "log_n_train is the partial correlation given the log of the training instances.",
            "",
            correlation_table(content),
            "",
            "## A few of a class's embeddings against all of them",
            "",
            f"Of the classes with the most training instances: the mean over {content['draws']} "
            "random subsets of n embeddings, less the same estimate from all of them, in bits; "
            "mean ± standard deviation over the classes. In the last row what all of them give.",
            "",
            subsample_table(content),
            "",
        ]
    )


def correlation_table(content: dict[str, Any]) -> str:
    """A table for each predictor; what is not known at all has no row."""
    tables = []
    for name, predictor in content["predictors"].items():
        found, rows = predictor["correlations"], []
        for split in ("info_train", "info_balanced"):
            of = found[split]
            for other in of[SHRINKAGES[0]]:
                entries = [of[key][other] for key in SHRINKAGES]
                number = max(entry["num_classes"] for entry in entries)
                if number >= 3:
                    cells = [_interval(entry["spearman"]) for entry in entries]
                    rows.append([f"{split}, {other}", *cells, f"{number:,}"])
        columns = ("correlation of", *SHRINKAGES, "classes")
        lines = [*_heading(name, predictor), github_table(columns, rows)]
        known = [(pair, of) for pair, of in found["others"].items() if of["num_classes"] >= 3]
        if known:
            rows = [[p, _interval(of["spearman"]), f"{of['num_classes']:,}"] for p, of in known]
            lines += ["", github_table(("correlation of", "Spearman", "classes"), rows)]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def over_seeds(contents: list[dict[str, Any]]) -> str:
    """Tables of detectors of several seeds: correlations as mean ± standard deviation over them,
    and the subsets of embeddings of all of them."""
    (name,) = contents[0]["predictors"]
    seeds = [content["predictors"][name] for content in contents]
    found = [predictor["correlations"] for predictor in seeds]
    rows = []
    for split in ("info_train", "info_balanced"):
        for other in found[0][split][SHRINKAGES[0]]:
            entries = [[of[split][key][other] for of in found] for key in SHRINKAGES]
            cells = [_spread([e["spearman"][0] for e in of], digits=2) for of in entries]
            number = max(entry["num_classes"] for of in entries for entry in of)
            rows.append([f"{split}, {other}", *cells, f"{number:,}"])
    for pair in found[0]["others"]:
        entries = [of["others"][pair] for of in found]
        cell = _spread([entry["spearman"][0] for entry in entries], digits=2)
        row = [pair, cell, *["-"] * (len(SHRINKAGES) - 1)]
        rows.append([*row, f"{max(entry['num_classes'] for entry in entries):,}"])
    pooled = {**seeds[0], "subsamples": [of for p in seeds for of in p["subsamples"]]}
    columns = ("Spearman's correlation of", *SHRINKAGES, "classes")
    table = github_table(columns, rows)
    return f"{table}\n\n{subsample_table({'predictors': {name: pooled}})}"


def subsample_table(content: dict[str, Any]) -> str:
    """A table for each predictor, with a row for each number of embeddings."""
    tables = []
    for name, predictor in content["predictors"].items():
        classes, rows = predictor["subsamples"], []
        for size in sorted({size for of in classes for size in of["sizes"]}):
            having = [of for of in classes if size in of["sizes"]]
            cells = []
            for key in SHRINKAGES:
                found = [(of["estimates"][key], of["sizes"].index(size)) for of in having]
                cells.append(_spread([of["mean"][i] - of["full"] for of, i in found], "+"))
            rows.append([f"{size:,}", *cells, f"{len(having)}"])
        if classes:
            numbers = [of["n"] for of in classes]
            full = [_spread([of["estimates"][key]["full"] for of in classes]) for key in SHRINKAGES]
            rows.append([f"all ({min(numbers):,} to {max(numbers):,})", *full, f"{len(classes)}"])
        columns = ("n", *SHRINKAGES, "classes")
        tables.append("\n".join([*_heading(name, predictor), github_table(columns, rows)]))
    return "\n\n".join(tables)


def _heading(name: str, predictor: dict[str, Any]) -> list[str]:
    return [f"{name}, embeddings of {predictor['embedding_dim']:,} numbers:", ""]


def _interval(value: list[float | None]) -> str:
    if value[0] is None or value[0] != value[0]:
        return "-"
    low, high = ("?" if v is None or v != v else f"{v + 0.0:.2f}" for v in value[1:])
    return f"{value[0]:.2f} [{low}, {high}]"


def _spread(values: list[float | None], sign: str = "", digits: int = 1) -> str:
    if None in values:
        return "-"
    mean = round(statistics.fmean(values), digits) + 0.0  # no zero with a minus sign
    std = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean:{sign}.{digits}f}{std}"
