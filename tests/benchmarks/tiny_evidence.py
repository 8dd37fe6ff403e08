"""What the tests of evidence.py share: files that its runs leave, and the line of a refusal."""

import json
import os
import time
from pathlib import Path

import pytest

__all__ = ["SPLITS", "aged", "differing", "leave", "message_of", "results_of"]

SPLITS = ("digits_selection", "digits_test")


def differing(content: dict, default: dict) -> dict:
    """What a config file must say: a whole one takes long to read."""
    found = {key: value for key, value in content.items() if value != default[key]}
    nodes = {key: node for key, node in found.items() if isinstance(node, dict)}
    return found | {key: differing(node, default[key]) for key, node in nodes.items()}


def results_of(run: Path, dataset: str) -> Path:
    return run / "inference" / dataset / "results.json"


def message_of(evidence, args, capsys) -> str:
    """Of a command that is refused in a line."""
    with pytest.raises(SystemExit) as raised:
        evidence.main(args)
    assert raised.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


def leave(run, *, age: float = 0, selection: float | None = 1.0, test: float | None = 2.0) -> None:
    """What a run leaves that ended `age` seconds ago; a split with None was not evaluated."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "config.yaml").write_text(run.cfg.dump())
    files = [run.model, run.folder / "last_checkpoint"]
    for dataset, ap in zip(SPLITS, (selection, test), strict=True):
        file = results_of(run.folder, dataset)
        file.unlink(missing_ok=True)
        if ap is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"metrics": {"bbox": {"AP": ap}}}))
            files.append(file)
    for file in files[:2]:
        file.write_text("model")
    aged(age, *files)


def aged(seconds: float, *files: Path) -> None:
    then = time.time() - seconds
    for file in files:
        os.utime(file, (then, then))
