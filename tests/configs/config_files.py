"""The configs of LVIS v1, COCO-LT and Pascal VOC, and what their names say."""

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FOLDERS", "ROOT", "ConfigFile", "config_files"]

ROOT = Path(__file__).parents[2]
FOLDERS = ("LVISv1", "COCO-LT", "VOC")
LOSSES = {
    "acsl": "ACSLLoss",
    "bags": "BAGSLoss",
    "balanced_softmax": "BalancedSoftmaxLoss",
    "c2am": "C2AMLoss",
    "cosine_ce": "CosineCELoss",
    "disalign": "DisAlignLoss",
    "droploss": "DropLoss",
    "eql": "EQLLoss",
    "eqlv2": "EQLv2Loss",
    "equalized_focal": "EqualizedFocalLoss",
    "fcbl": "FCBLLoss",
    "focal": "FocalLoss",
    "igam": "IGAMLoss",
    "loce": "LOCELoss",
    "seesaw": "SeesawLoss",
    "softmax_ce": "SoftmaxCELoss",
    "softmax_ce_rfs": "SoftmaxCELoss",
}
NAME = re.compile(
    r"(?P<arch>faster_rcnn|mask_rcnn|cascade_rcnn|cascade_mask_rcnn|detr)"
    r"_(?P<backbone>R_50|R_101|Swin_T)(?P<fpn>_FPN)?_(?P<method>\w+)"
)


@dataclass(frozen=True)
class ConfigFile:
    """A config and the parts of its name, as "faster_rcnn", "R_50", "igam"."""

    path: Path
    arch: str
    backbone: str
    method: str

    @classmethod
    def of(cls, path: Path) -> "ConfigFile":
        match = NAME.fullmatch(path.stem)
        assert match, f"{path} is not named <architecture>_<backbone>_<method>.yaml"
        assert bool(match["fpn"]) == (match["arch"] != "detr"), path
        return cls(path, match["arch"], match["backbone"], match["method"])

    @property
    def name(self) -> str:
        """As "LVISv1/detr_R_50_igam"."""
        return f"{self.path.parent.name}/{self.path.stem}"

    @property
    def loss(self) -> str:
        return LOSSES[self.method]

    @property
    def header(self) -> list[str]:
        """Its first lines, without the marks of a comment."""
        lines = self.path.read_text().splitlines()
        number = next(i for i, line in enumerate(lines) if not line.startswith("#"))
        return [line.removeprefix("#").strip() for line in lines[:number]]


def config_files() -> list[ConfigFile]:
    paths = (path for folder in FOLDERS for path in (ROOT / "configs" / folder).glob("*.yaml"))
    return [ConfigFile.of(path) for path in sorted(paths) if not path.stem.startswith("Base-")]
