"""Files that are there as a whole or not at all, and JSON that any reader takes."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

__all__ = ["strict", "write_json", "write_whole"]


def write_whole(path: str | Path, write: Callable[[IO[bytes]], object]) -> None:
    """A file that replaces `path` when everything is on the disk."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as f:
        write(f)
        f.flush()
        os.fsync(f.fileno())
    part.replace(path)


def write_json(path: str | Path, content: Any) -> None:
    """Writes the whole of it, as :func:`strict` JSON."""
    text = json.dumps(strict(content), indent=1, allow_nan=False)
    write_whole(path, lambda f: f.write(text.encode()))


def strict(value: Any) -> Any:
    """The same with None for numbers that are not finite, which strict JSON does not know."""
    if isinstance(value, dict):
        return {key: strict(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [strict(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
