"""The page: sections of figures, sentences and tables, and everything it needs inside."""

import errno
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from .drawing import Drawing, inline_svg
from .style import THEME

# Text on the ground needs more contrast than marks.
TEXT_COLORS = {"better": ("#00674b", "#2cc497"), "worse": ("#a33f00", "#ff8b3d")}
FIGURE_FILE = re.compile(
    r"(ap_by_group|ap_correlation|class_ap|information_history|learning_curves|model_bias|tide"
    r"|(confusion|detections|margins|rare)(_.+)?)\.(png|svg)"
)
FOOTER = "Beside this page, <code>figures/</code> holds every figure as PNG and SVG."


class Html(str):
    """Text that is HTML already."""


@dataclass
class Section:
    """A part of the page. Its drawings may be made one by one, when they are written."""

    name: str
    heading: str
    parts: Iterable[Drawing | Html | str]


def check_writable(path: Path) -> None:
    """Make the folders of a page, and see that it and its figures can be written.

    Raises:
        OSError: if not.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    for folder in (path.parent, path.parent / "figures"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def write_page(path: Path, title: str, header: Html, sections: Sequence[Section]) -> None:
    """Write the page, and its figures into `figures` beside it.

    The page is in one piece or not at all: it is written beside its place and then moved there.
    Figures of an earlier page are removed only then.
    """
    folder = path.parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    written = set()
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".report-", suffix=".html")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            f.write(_head(title))
            f.write(f"<header>\n<h1>{escape(title)}</h1>\n{header}\n</header>\n<main>\n")
            f.write(_contents(sections))
            for section in sections:
                f.write(f'<section id="{section.name}">\n<h2>{escape(section.heading)}</h2>\n')
                for part in section.parts:
                    f.write(_part(part, folder))
                    if isinstance(part, Drawing):
                        written.add(part.name)
                f.write("</section>\n")
            f.write(f"</main>\n<footer><p>{FOOTER}</p></footer>\n")
            f.write(f"<script>\n{_resource('report.js')}</script>\n</body>\n</html>\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    for old in folder.iterdir():  # of a report on other runs
        if FIGURE_FILE.fullmatch(old.name) and old.stem not in written:
            old.unlink()


def _head(title: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_variables()}{_resource('report.css')}</style>\n"
        "</head>\n<body>\n"
    )


def _variables() -> str:
    """Colours by role: light; on a screen that is set to dark, dark."""
    colors = THEME | TEXT_COLORS
    light, dark = (
        "".join(f"  --{role}: {pair[i]};\n" for role, pair in colors.items()) for i in (0, 1)
    )
    return (
        f":root {{\n  color-scheme: light;\n{light}}}\n"
        "@media screen and (prefers-color-scheme: dark) {\n"
        f"  :root {{\n  color-scheme: dark;\n{dark}  }}\n}}\n"
    )


def _contents(sections: Sequence[Section]) -> str:
    items = (f'<li><a href="#{s.name}">{escape(s.heading)}</a></li>' for s in sections)
    return f'<nav aria-label="Contents">\n<ol>\n{chr(10).join(items)}\n</ol>\n</nav>\n'


def _part(part: Drawing | Html | str, folder: Path) -> str:
    if isinstance(part, Html):
        return f"{part}\n"
    if isinstance(part, str):
        return f'<p class="note">{escape(part)}</p>\n'
    svg = inline_svg(part.save(folder), part.name, part.alt)
    caption = f"<figcaption>{escape(part.caption)}</figcaption>\n" if part.caption else ""
    return f'<figure tabindex="0">\n{caption}{svg}\n</figure>\n'


def _resource(name: str) -> str:
    return (files("igam_d2.report") / name).read_text(encoding="utf-8")
