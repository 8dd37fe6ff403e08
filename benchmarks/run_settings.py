"""Whether a run that was begun before has the settings that are wanted now."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from detectron2.config import CfgNode

from igam_d2.errors import InputError

__all__ = ["check_settings", "differing_settings"]

# Where a run was made, not what it is: results are read on other machines, by other paths
PLACES = {"OUTPUT_DIR", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS"}


def check_settings(folder: Path, cfg: CfgNode, results: Sequence[str]) -> None:
    """Refuses to go on with, or to count, a run of other settings, but for those of PLACES.

    Args:
        folder: of the run.
        cfg: as it is wanted.
        results: files below it that count, beside its checkpoints.

    Raises:
        InputError: which setting differs.
    """
    if not any((folder / name).is_file() for name in ("last_checkpoint", *results)):
        return
    try:
        before = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(
            f"{folder} may have been run with other settings, as it has no readable "
            "config.yaml: choose another --output, or delete it."
        ) from error
    wanted, before = _flat(yaml.safe_load(cfg.dump())), _flat(before)
    for key in _differing(wanted, before):
        if key in PLACES:
            continue
        raise InputError(
            f"{folder} was run with {key} {before.get(key)!r}, which is now "
            f"{wanted.get(key)!r}: choose another --output, or delete it."
        )


def differing_settings(a: CfgNode, b: CfgNode) -> list[str]:
    """The whole names of the keys that are not alike."""
    return _differing(_flat(a), _flat(b))


def _differing(a: dict[str, object], b: dict[str, object]) -> list[str]:
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def _flat(node: object, prefix: str = "") -> dict[str, object]:
    """The settings by their whole names."""
    if not isinstance(node, dict):
        return {prefix: node}
    parts = (_flat(v, f"{prefix}.{k}" if prefix else k) for k, v in node.items())
    return {key: value for part in parts for key, value in part.items()}
