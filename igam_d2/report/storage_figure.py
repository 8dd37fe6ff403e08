"""Figure 3 of the paper, storage by queue length, with the storage of this project in it."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from .style import INK, STYLE

__all__ = ["draw_storage"]

ALL, PAPER, OURS = "#666666", "#D55E00", "#0072B2"  # Okabe and Ito's
MIB = 2**20
PLAIN = FuncFormatter(lambda value, _: f"{value:,.10g}")


def draw_storage(
    path: str | Path,
    *,
    num_instances: int,
    num_classes: int,
    embedding_dim: int,
    queue_length: int,
    optimal_length: int,
    everything: float,
    paper: Callable[[int], float],
    ours: Callable[[int], float],
) -> Path:
    """Draw storage over the length of the queue into one PNG; returns its path.

    Args:
        path: of the PNG; its folder is made.
        queue_length: the length in use, marked on both curves.
        optimal_length: the paper's best length, marked on the paper's curve.
        everything: bytes of all embeddings of an epoch.
        paper: queue length -> bytes of the queue and the covariances of every filling.
        ours: queue length -> bytes of the queue and one running merge for each class.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # From 1,000 to N as in Listing 2, and further where a marked length or a small N needs it
    shortest = min(1000, max(1, num_instances // 10), queue_length, optimal_length)
    longest = max(num_instances, queue_length, optimal_length, 10 * shortest)
    lengths = np.unique(np.geomspace(shortest, longest, 2000).round().astype(np.int64)).tolist()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 5.6), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        figure.set_layout_engine("constrained", rect=(0.01, 0.01, 0.98, 0.81))
        ax = figure.add_subplot()
        ax.set(xscale="log", yscale="log", xlim=(shortest, longest))
        ax.set(xlabel="queue length (embeddings, log scale)", ylabel="storage (MiB, log scale)")
        ax.axhline(everything / MIB, color=ALL, ls=(0, (5, 2.5)), lw=1.5)
        for scheme, color, size, marked in (  # markers of two sizes: one may lie on the other
            (paper, PAPER, 10, {queue_length: "o", optimal_length: "D"}),
            (ours, OURS, 6.5, {queue_length: "o"}),
        ):
            ax.plot(lengths, [scheme(length) / MIB for length in lengths], color=color, lw=2)
            for length, marker in marked.items():
                style = {"marker": marker, "ms": size, "mec": "white", "mew": 1.2, "clip_on": False}
                ax.plot(length, scheme(length) / MIB, color=color, zorder=4, **style)
        low, high = ax.get_ylim()
        ax.axhspan(everything / MIB, high, color=ALL, alpha=0.08, lw=0)
        ax.set_ylim(low, high)
        ratio = ax.secondary_yaxis(
            "right", (lambda y: y * MIB / everything, lambda r: r * everything / MIB)
        )
        ratio.set_ylabel("ratio to all embeddings")
        x_range, y_range = longest / shortest, high / low
        for axis, span in ((ax.xaxis, x_range), (ax.yaxis, y_range), (ratio.yaxis, y_range)):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 5000 else (1,)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(PLAIN)

        title = f"Storage by queue length: N = {num_instances:,} instances, "
        title += f"K = {num_classes:,} classes, D = {embedding_dim:,}"
        size = min(13, 13 * 80 / len(title))  # inside the picture
        figure.text(0.02, 0.955, title, fontsize=size, weight="bold", color=INK)
        chosen = f"\N{BLACK CIRCLE} at {queue_length:,}: "
        best = f"\N{BLACK DIAMOND} least by Listing 2: {_mib(paper(optimal_length))}"
        labels = {
            ALL: f"all embeddings of an epoch: {_mib(everything)} (shaded: more than that)",
            PAPER: "queue and covariances of every filling (paper, eq. 9); "
            f"{chosen}{_mib(paper(queue_length))}, {best} at {optimal_length:,}",
            OURS: f"queue and one running merge for each class (this project); "
            f"{chosen}{_mib(ours(queue_length))}",
        }
        handles = [
            Line2D([], [], color=color, lw=2, label=label, ls=(0, (5, 2)) if color == ALL else "-")
            for color, label in labels.items()
        ]
        size = min(9, 9 * 128 / max(map(len, labels.values())))
        figure.legend(
            handles=handles, frameon=False, fontsize=size, loc="upper left",
            bbox_to_anchor=(0.02, 0.935), borderaxespad=0, borderpad=0, labelspacing=0.55,
        )  # fmt: skip
        figure.savefig(path, format="png")
    return path


def _mib(num_bytes: float) -> str:
    size = num_bytes / MIB
    return f"{size:,.{2 if size < 1000 else 0}f} MiB"
