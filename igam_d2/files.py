"""Files that are there as a whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

__all__ = ["write_whole"]


def write_whole(path: str | Path, write: Callable[[IO[bytes]], object]) -> None:
    """A file that replaces `path` when everything is on the disk."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as f:
        write(f)
        f.flush()
        os.fsync(f.fileno())
    part.replace(path)
