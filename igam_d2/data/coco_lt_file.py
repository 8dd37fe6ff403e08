"""The file of a rebuilt COCO-LT: read from COCO's, and written in the place of no other."""

import json
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import InputError, TransientError, os_reason
from ..files import write_whole
from .checks import check_annotation_file
from .coco_lt import COCO_LT, Counts, Summary
from .coco_lt_rebuild import check_seed, rebuild

__all__ = ["rebuild_file"]


def rebuild_file(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    seed: int,
    counts: Counts = COCO_LT,
    progress: Callable[[str], object] = print,
) -> Summary:
    """Reads a file, and writes the part of it that :func:`rebuild` draws.

    Args:
        source: COCO's ``instances_train2017.json``.
        output: replaced when all of it is on the disk; a file there must be a rebuilt one.
        progress: is told what is being done, a line at a time.

    Raises:
        InputError: a source that is missing or another file, a seed that is none, or an output that
            is another file or in a folder that nothing can be written to.
        TransientError: the disk is full, or the like.
    """
    source, output = Path(source), Path(output)
    check_seed(seed)
    if source.is_file():
        _check_output(output, source)
        size = source.stat().st_size
        progress(f"reading {source}: {size / 1e6:,.0f} MB, about {size / 25e6:.0f} s")
    content = check_annotation_file(str(source))
    progress(f"drawing from {len(content['annotations']):,} annotations: a few seconds")
    try:
        result = rebuild(content, seed=seed, counts=counts, source=source.name)
    except InputError as error:
        raise InputError(f"{str(source)!r} cannot be drawn from. {error}") from error
    try:
        write_whole(output, lambda f: _write(result, f, progress, f"writing {output}"))
    except OSError as error:
        raise TransientError(
            f"{str(output)!r} could not be written ({os_reason(error)})."
        ) from error
    return Summary.of_content(result, counts.bounds)


def _check_output(output: Path, source: Path) -> None:
    """Refuses, before the minute of work, what must not be replaced or cannot be written."""
    try:
        if output.exists() and output.samefile(source):
            raise InputError(f"{str(output)!r} is the source itself: write to another file.")
        if output.exists() and not _says_rebuilt(output):
            raise InputError(
                f"{str(output)!r} is there and is no rebuilt set of this command, so that it is "
                "not replaced: write to another file, or remove it."
            )
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise InputError(f"{str(output)!r} cannot be written ({os_reason(error)}).") from error


def _says_rebuilt(path: Path) -> bool:
    """Whether a file begins with the `info` that :func:`.rebuild` writes."""
    if not path.is_file():
        return False
    with path.open("rb") as f:
        text = f.read(1 << 16).decode(errors="replace")
    begin = re.match(r'\s*\{\s*"info"\s*:\s*(?=\{)', text)
    try:
        info = json.JSONDecoder().raw_decode(text, begin.end())[0] if begin else {}
    except (ValueError, RecursionError):
        return False
    return bool(info.get("rebuilt"))


def _write(content: dict, f, progress: Callable[[str], object], what: str) -> None:
    """One record at a time, so that the text is not a second copy in memory."""
    start, done = time.monotonic(), 0
    total = len(content["images"]) + len(content["annotations"])
    step = -(-total // 5) or 1
    for number, (part, value) in enumerate(content.items()):
        f.write(f"{'{' if number == 0 else ', '}{json.dumps(part)}: ".encode())
        if part not in ("images", "annotations"):
            f.write(json.dumps(value).encode())
            continue
        f.write(b"[")
        for index, record in enumerate(value):
            f.write((", " if index else "").encode() + json.dumps(record).encode())
            done += 1
            if done % step == 0 and done < total:
                left = (time.monotonic() - start) * (total - done) / done
                progress(f"{what}: {done / total:.0%}, {left:.0f} s left")
        f.write(b"]")
    f.write(b"}\n")
