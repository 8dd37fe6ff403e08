"""Reads a set of Meshes-LT from its folder, or from the tar file that it is packed in."""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

from igam_d2.errors import InputError

__all__ = ["FolderFiles", "SetFiles", "open_set"]


class SetFiles(Protocol):
    """Where a set lies: its name, the paths of its files below it, and what they hold."""

    name: str

    def paths(self) -> set[str]: ...

    def read(self, path: str) -> bytes: ...


class FolderFiles:
    """Those of a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.name = folder.resolve().name

    def paths(self) -> set[str]:
        """Without what training writes beside annotation files."""
        return {
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*")
            if path.is_file() and not path.name.endswith(".json.counts.json")
        }

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()


class TarFiles:
    """Those of a tar file of one folder.

    Raises:
        InputError: it holds something else, or what would lie outside of that folder.
    """

    def __init__(self, tar: tarfile.TarFile, file: Path):
        self.tar = tar
        self.members: dict[str, tarfile.TarInfo] = {}
        names = set()
        for member in tar:
            path = PurePosixPath(member.name)
            if not member.isfile() or path.is_absolute() or ".." in path.parts:
                raise InputError(f"{file} is not a packed set: {member.name!r} is no plain file.")
            below = "/".join(path.parts[1:])
            if not below or below in self.members:
                raise InputError(f"{file} is not a packed set: {member.name!r} is out of place.")
            names.add(path.parts[0])
            self.members[below] = member
        if len(names) != 1:
            raise InputError(f"{file} is not a packed set: it must hold one folder.")
        self.name = names.pop()

    def paths(self) -> set[str]:
        return set(self.members)

    def read(self, path: str) -> bytes:
        return self.tar.extractfile(self.members[path]).read()


@contextmanager
def open_set(path: Path) -> Iterator[SetFiles]:
    """The files of the set that `path` is, a folder or a tar file.

    Raises:
        InputError: it is missing, or is not a whole tar file of one folder.
    """
    if path.is_dir():
        yield FolderFiles(path)
        return
    if not path.is_file():
        raise InputError(f"{path} is missing: give the folder of a set, or the file it is in.")
    try:
        with tarfile.open(path, "r:") as tar:
            yield TarFiles(tar, path)
    except tarfile.TarError as error:
        raise InputError(f"{path} is not a whole tar file: {error}.") from error
