"""A figure with its words, as files and as a part of the page."""

import base64
import io
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from .style import PAPER, THEME

VARIABLES = {light: f"var(--{role})" for role, (light, _) in THEME.items()}
PNG_DPI, RASTER_DPI = 150, 200
JPEG_QUALITY = 84


@dataclass
class Drawing:
    """A figure.

    Attributes:
        name: of its files, and in the page of its parts.
        caption: how to read it.
        alt: what it shows, for those who cannot see it.
    """

    name: str
    figure: Figure
    caption: str
    alt: str

    def save(self, folder: Path) -> str:
        """Write `<name>.png` and `<name>.svg`, light and on white; returns the SVG's text."""
        self.figure.savefig(
            folder / f"{self.name}.png", dpi=PNG_DPI, facecolor=PAPER, metadata={"Software": None}
        )
        file = io.StringIO()
        self.figure.savefig(
            file, format="svg", dpi=RASTER_DPI, facecolor=PAPER,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )  # fmt: skip
        svg = photos_as_jpeg(file.getvalue())
        (folder / f"{self.name}.svg").write_text(svg, encoding="utf-8")
        return svg


def photos_as_jpeg(svg: str) -> str:
    """Opaque images inside an SVG as JPEG, a fifth of the size, and each but once."""

    def smaller(match: re.Match) -> str:
        data = base64.b64decode(match[1])
        with Image.open(io.BytesIO(data)) as image:
            if image.mode == "RGBA" and image.getextrema()[3][0] < 255:
                return match[0]
            file = io.BytesIO()
            image.convert("RGB").save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
        if file.tell() > len(data):
            return match[0]
        return f'"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"'

    seen = set()

    def once(match: re.Match) -> str:
        data, name, size, transform = match.groups()
        use = f'<use xlink:href="#{name}" transform="{transform}"/>'
        if name in seen:  # matplotlib's names of images tell their content
            return use
        seen.add(name)
        return f'<defs><image xlink:href="{data}" id="{name}" {size}/></defs>{use}'

    svg = re.sub(r'"data:image/png;base64,([^"]+)"', smaller, svg)
    return re.sub(
        r'<image xlink:href="(data:image/jpeg[^"]+)" id="([^"]+)" (width="\d+" height="\d+") '
        r'transform="([^"]+)"[^>]*/>',
        once,
        svg,
    )


def inline_svg(svg: str, name: str, alt: str) -> str:
    """The SVG as a part of an HTML page: it follows the page's theme, needs no namespace, and
    shares no id with another.
    """
    width, height = re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups()
    svg = svg[svg.index(">", svg.index("<svg")) + 1 :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.S)
    # A style element holds for the whole page: this one is in report.css.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.S)
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
    used = {a or b for a, b in used}
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = svg.replace('xlink:href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"(?<=[ :\"])#[0-9a-f]{6}(?=[;\"])", lambda m: VARIABLES.get(m[0], m[0]), svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    pixels = round(float(width) * 96 / 72)
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(alt)}" '
        f'style="max-width:{pixels}px">{svg}'
    )
