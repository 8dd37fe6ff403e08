"""What a measurement of information amounts says of every class, as JSON, CSV and text."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from ..class_statistics import class_correlations
from ..errors import InputError

__all__ = ["as_csv", "describe", "read_results", "summarize"]

NUM_EXTREMES = 5  # classes printed at either end


def read_results(path: Path, class_names: list[str]) -> list[dict[str, Any]]:
    """The class records of an evaluation's `results.json`.

    Raises:
        InputError: no such file, cut short, of another format, or of other classes.
    """
    try:
        classes = json.loads(path.read_text())["classes"]
        names = [record["name"] for record in classes]
        values = [ap for record in classes for ap in record["AP"].values()]
        tasks = {tuple(record["AP"]) for record in classes}
        if len(tasks) != 1 or any(ap is not None and not math.isfinite(ap) for ap in values):
            raise ValueError("the AP of a class is missing or no number")
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be read ({error.strerror}): --results takes the "
            "inference/<dataset>/results.json of a run."
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{str(path)!r} is not JSON, it may have been cut short: {error}."
        ) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{str(path)!r} is not the results.json of an evaluation with per-class AP: "
            f"{type(error).__name__} {error}."
        ) from error
    if names != class_names:
        pairs = zip(names, class_names, strict=False)
        differences = (f"class {k} is {a!r}, not {b!r}" for k, (a, b) in enumerate(pairs) if a != b)
        number = f"it has {len(names)} of them, not {len(class_names)}"
        raise InputError(
            f"{str(path)!r} is of other classes than the data set: {next(differences, number)}."
        )
    return classes


def summarize(
    information: np.ndarray,
    num_instances: np.ndarray,
    class_names: list[str],
    results: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The classes of a predictor, and with the class records of an evaluation their AP and its
    correlation with information amounts and counts.

    Args:
        information: (K,) bits; that of a class with fewer than two instances becomes NaN.
        num_instances: (K,) that they were measured on.
    """
    information = np.where(num_instances < 2, np.nan, information)
    entry: dict[str, Any] = {
        "classes": [
            {"name": name, "num_instances": int(n), "information": float(bits)}
            for name, n, bits in zip(class_names, num_instances, information, strict=True)
        ]
    }
    if results is not None:
        for record, result in zip(entry["classes"], results, strict=True):
            record["group"] = result.get("group")
            record["AP"] = {
                task: math.nan if ap is None else ap for task, ap in result["AP"].items()
            }
        entry["correlation"] = {
            task: class_correlations(
                np.array([record["AP"][task] for record in entry["classes"]]),
                information,
                num_instances,
            )
            for task in results[0]["AP"]
        }
    return entry


def describe(name: str, entry: dict[str, Any]) -> str:
    """The ends of the scale, and what AP goes along with."""
    known = [record for record in entry["classes"] if math.isfinite(record["information"])]
    known.sort(key=lambda record: -record["information"])
    num_classes = len(entry["classes"])
    dims = f"{entry['width']} numbers"
    if entry["embedding_dim"] < entry["width"]:
        dims += f" projected to {entry['embedding_dim']}"
    lines = [f"\n{name}: embeddings of {dims}, {len(known):,} of {num_classes:,} classes measured"]
    if num_few := sum(record["num_instances"] < 2 for record in entry["classes"]):
        lines[0] += f", {num_few:,} have fewer than two instances"
    if known:
        bits = [record["information"] for record in known]
        mean = sum(bits) / len(bits)
        lines[0] += f"; {bits[-1]:.2f} / {mean:.2f} / {bits[0]:.2f} bits (min / mean / max)"
    if entry["num_nonfinite"]:
        lines.append(f"{entry['num_nonfinite']:,} embeddings held a NaN or Inf and were left out.")
    rows = [(r["name"], f"{r['num_instances']:,}", f"{r['information']:.2f}") for r in known]
    if len(rows) > 2 * NUM_EXTREMES:
        rows = [*rows[:NUM_EXTREMES], ("...", "", ""), *rows[-NUM_EXTREMES:]]
    columns = ("class", "instances", "bits")
    align = ("left", "right", "right")
    lines.append(tabulate(rows, columns, disable_numparse=True, colalign=align if rows else None))
    for task, variables in entry.get("correlation", {}).items():
        for variable, values in variables.items():
            parts = [
                f"{kind.title()} {values[kind][0]:.2f} "
                f"[{values[kind][1]:.2f}, {values[kind][2]:.2f}]"
                for kind in ("pearson", "spearman")
            ]
            lines.append(
                f"{task} AP with {variable}: {', '.join(parts)}, {values['num_classes']:,} classes"
            )
    return "\n".join(lines)


def as_csv(content: dict[str, Any]) -> str:
    """A row for each predictor and class."""
    first = next(iter(content["predictors"].values()))["classes"][0]
    tasks = list(first.get("AP", ()))
    group = ["group"] if "group" in first else []
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["predictor", "class", *group, "num_instances", "information_bits"]
        + [f"{task}_AP" for task in tasks]
    )
    for name, entry in content["predictors"].items():
        for record in entry["classes"]:
            keys = ["name", *group, "num_instances", "information"]
            # None becomes an empty field
            writer.writerow(
                [name] + [record[key] for key in keys] + [record["AP"][task] for task in tasks]
            )
    return file.getvalue()
