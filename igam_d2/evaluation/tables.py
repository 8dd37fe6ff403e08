"""The results of an evaluation as text, for the log."""

import math
from typing import Any

from tabulate import tabulate

# A per-class table longer than this hides what one looks for: only the worst classes are printed.
MAX_TABLE_CLASSES = 60
NUM_WORST_CLASSES = 20

VARIABLES = {
    "information": "information amount",
    "instance_count": "training instances",
    "log_instance_count": "log of training instances",
}


def metrics_table(metrics: dict[str, float]) -> str:
    """The metrics in one row."""
    return tabulate(
        [list(metrics.values())], list(metrics), tablefmt="pipe", floatfmt=".3f", numalign="center"
    )


def statistics_table(bias: dict[str, dict], correlations: dict[str, dict]) -> str:
    """Model bias and correlations, of boxes and masks."""
    lines = []
    for task, values in bias.items():
        left_out = values["num_left_out"]
        lines.append(
            f"{task}: model bias (variance of per-class AP) {values['variance']:.2f}, standard "
            f"deviation {values['std']:.2f} %, over {values['num_classes']} classes"
            + (f", {left_out} without ground truth left out" if left_out else "")
        )
        for variable, result in correlations[task].items():
            parts = [
                f"{name.capitalize()} {r:.3f} (95% {low:.3f} to {high:.3f})"
                for name in ("pearson", "spearman")
                for r, low, high in (result[name],)
            ]
            lines.append(
                f"{task}: AP with {VARIABLES[variable]}: {', '.join(parts)}, "
                f"{result['num_classes']} classes"
            )
    return "\n".join(lines)


def class_table(classes: list[dict[str, Any]], metric: str = "AP") -> str:
    """The APs of all classes as a table, or of the worst ones where there are too many to read."""
    tasks = list(classes[0]["AP"]) if classes else []
    title = f"{metric} (%) of every class:"
    if len(classes) > MAX_TABLE_CLASSES:
        evaluated = [record for record in classes if not math.isnan(record["AP"][tasks[0]])]
        classes = sorted(evaluated, key=lambda record: record["AP"][tasks[0]])[:NUM_WORST_CLASSES]
        title = (
            f"{metric} (%) of the {len(classes)} worst of {len(evaluated)} classes with ground "
            "truth:"
        )
    columns = {
        "class": "name",
        "group": "group",
        "training images": "image_count",
        "training instances": "instance_count",
        "instances": "val_instances",
        "information (bits)": "information",
    }
    known = {
        title: key
        for title, key in columns.items()
        if any(r[key] is not None and r[key] == r[key] for r in classes)  # NaN is not itself
    }
    headers = list(known) + [f"{metric} {task}" for task in tasks]
    rows = [[r[key] for key in known.values()] + list(r["AP"].values()) for r in classes]
    return f"{title}\n" + tabulate(
        rows, headers, tablefmt="pipe", floatfmt=".2f", numalign="right", missingval="-"
    )
