"""How the figures of the benchmark look, and how they are written: PNG of 1200 pixels width."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from igam_d2.errors import InputError
from igam_d2.files import write_whole
from igam_d2.report.drawing import PNG_DPI, Drawing
from igam_d2.report.style import PAPER, STYLE

__all__ = ["LOOK", "OTHER", "SERIES", "log_ticks", "need", "new_figure", "save", "span"]

WIDTH = 8.0  # inches: 1200 pixels at PNG_DPI
LOOK = STYLE | {"font.size": 10, "axes.titlesize": 10.5, "legend.fontsize": 9.5}
# Of Okabe and Ito, as those of the groups: told apart by the colour-blind
OTHER = "#59636e"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#b3589a")


def save(drawing: Drawing, folder: str | Path) -> Path:
    """Write `<name>.png` into a folder, which is made; returns its path."""
    path = Path(folder) / f"{drawing.name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    style = {"format": "png", "dpi": PNG_DPI, "facecolor": PAPER, "metadata": {"Software": None}}
    with mpl.rc_context(LOOK):
        write_whole(path, lambda f: drawing.figure.savefig(f, **style))
    return path


def new_figure(height: float) -> Figure:
    figure = Figure(figsize=(WIDTH, round(height, 2)), dpi=PNG_DPI, facecolor=PAPER)
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06)
    FigureCanvasAgg(figure)
    return figure


def log_ticks(axis: Axis) -> None:
    """Plain numbers at the powers of ten, of a short logarithmic axis also at 2 and 5 times."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1,)))
    axis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    axis.set_minor_formatter(NullFormatter())


def need(found: object, what: str) -> None:
    if not found:
        raise InputError(f"There are no evaluated runs of {what} to draw: run them first.")


def span(numbers: Iterable[int]) -> str:
    """How many seeds: "3 seeds", or "2 to 3 seeds"."""
    low, high = min(numbers := set(numbers)), max(numbers)
    text = f"{low}" if low == high else f"{low} to {high}"
    return f"{text} seed{'s' * (high != 1)}"
