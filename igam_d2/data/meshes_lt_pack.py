"""Packs a set of Meshes-LT into a tar file, checks one that is packed or not, and unpacks it.

A set that was rendered where pybullet has a wheel can so be used anywhere. Nothing here needs it.
"""

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from igam_d2.data.meshes_lt import SUMS, annotation_file, categories_of
from igam_d2.data.meshes_lt_files import FolderFiles, SetFiles, open_set
from igam_d2.data.meshes_lt_plan import SPLITS, VERSION, Parameters, long_tail
from igam_d2.errors import InputError
from igam_d2.files import write_whole

__all__ = ["check_set", "pack_set", "unpack_set"]

_SUM = re.compile(r"([0-9a-f]{64})  (\S+)")


def pack_set(folder: str | os.PathLike[str], file: str | os.PathLike[str]) -> str:
    """Write a set that is in order into a tar file; the same set gives the same bytes.

    Returns:
        summary: of :func:`check_set`.

    Raises:
        InputError: as :func:`check_set`, or `folder` is none.
        OSError: the file cannot be written.
    """
    folder, file = Path(folder), Path(file)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: there is nothing to pack.")
    summary = check_set(folder)

    def write(f: io.BufferedIOBase) -> None:
        with tarfile.open(fileobj=f, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for path in sorted([*_sums(FolderFiles(folder)), SUMS]):
                content = (folder / path).read_bytes()
                member = tarfile.TarInfo(f"{folder.resolve().name}/{path}")  # no time, no owner
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))

    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, write)
    return summary


def unpack_set(file: str | os.PathLike[str], root: str | os.PathLike[str]) -> tuple[Path, str]:
    """Check a packed set and put it under `root`, as a whole, unless it is there already.

    Returns:
        folder, summary: of the set.

    Raises:
        InputError: as :func:`check_set`, `file` is none, or something else has the set's name.
        OSError: it cannot be written.
    """
    root = Path(root)
    if Path(file).is_dir():
        raise InputError(f"{file} is a folder: there is nothing to unpack.")
    summary = check_set(file)
    with open_set(Path(file)) as files:
        target, sums = root / files.name, files.read(SUMS)
        if (target / SUMS).is_file() and (target / SUMS).read_bytes() == sums:
            return target, check_set(target)
        if target.exists():
            raise InputError(f"{target} is there and is not this set: move it away.")
        root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{files.name}-", dir=root))
        try:
            temporary.chmod(0o755)
            for path in files.paths():
                (temporary / path).parent.mkdir(parents=True, exist_ok=True)
                (temporary / path).write_bytes(files.read(path))
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target, summary


def check_set(path: str | os.PathLike[str]) -> str:
    """Check a set: its sums, that it is complete, and that annotations and images agree.

    Args:
        path: its folder, or the tar file it is packed in.

    Returns:
        summary: a line that says what it is.

    Raises:
        InputError: the first mistake that is found.
        OSError: a file cannot be read.
    """
    with open_set(Path(path)) as files:
        try:
            return _check(files, str(path))
        except InputError:
            raise
        except (
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            FileNotFoundError,
            UnidentifiedImageError,
        ) as error:
            raise InputError(
                f"{path} is not a set of Meshes-LT: {type(error).__name__}: {error}."
            ) from error


def _check(files: SetFiles, where: str) -> str:
    sums, paths = _sums(files), files.paths()
    if missing := sorted(set(sums) - paths):
        raise InputError(f"{where} is not complete: {missing[0]} is missing.")
    if more := sorted(paths - set(sums) - {SUMS}):
        raise InputError(f"{where} holds {more[0]}, which is not in its {SUMS}.")
    for path, digest in sums.items():
        if hashlib.sha256(files.read(path)).hexdigest() != digest:
            raise InputError(f"{where} is damaged: {path} has not the sum that {SUMS} gives.")

    content = json.loads(files.read("parameters.json"))
    version = content.pop("version")
    if version != VERSION:
        raise InputError(f"{where} is of version {version!r}; this is version {VERSION}.")
    parameters = Parameters(**content)
    if parameters.name != files.name:
        raise InputError(
            f"{where} has the name {files.name!r}, but was made as {parameters.name!r}."
        )
    data = {
        split: json.loads(files.read(annotation_file(parameters.name, split))) for split in SPLITS
    }
    _check_categories(data, parameters, where)
    for split in SPLITS:
        _check_split(files, split, data[split], parameters, f"{where}, {split}")
    names = {category["name"] for category in data["train"]["categories"]}
    if set(json.loads(files.read("diversity.json"))["diversity"]) != names:
        raise InputError(f"{where}: diversity.json has other classes than the annotation files.")
    groups = Counter(category["frequency"] for category in data["train"]["categories"])
    images = ", ".join(f"{len(data[split]['images']):,} {split}" for split in SPLITS)
    return (
        f"{parameters.name}: {len(names)} classes ({groups['r']} rare, {groups['c']} common, "
        f"{groups['f']} frequent), {images} images of {parameters.image_size} px, seed "
        f"{parameters.seed}; complete and unchanged, {SUMS} {_digest(files)}"
    )


def _digest(files: SetFiles) -> str:
    """Of a whole set, short enough to compare by eye."""
    return hashlib.sha256(files.read(SUMS)).hexdigest()[:16]


def _sums(files: SetFiles) -> dict[str, str]:
    """The sum of each file of a set, by its path."""
    if SUMS not in files.paths():
        raise InputError(f"{files.name} is no set of Meshes-LT, or not a whole one: no {SUMS}.")
    lines = files.read(SUMS).decode(errors="replace").splitlines()
    matches = [_SUM.fullmatch(line) for line in lines]
    if not all(matches):
        raise InputError(f"{SUMS} of {files.name} has a line that is no sum of a file.")
    return {match[2]: match[1] for match in matches}


def _check_categories(data: dict[str, Any], parameters: Parameters, where: str) -> None:
    """They are the same in all files, with the counts of the training annotations."""
    names = [category["name"] for category in data["train"]["categories"]]
    if len(names) != parameters.num_classes:
        raise InputError(
            f"{where} has {len(names)} classes instead of the {parameters.num_classes} of its "
            "parameters."
        )
    if names != sorted(set(names)) or not all(re.fullmatch(r"mesh_\d{3}", name) for name in names):
        raise InputError(f"{where}: its classes are not each a mesh, in their order.")
    expected = categories_of(names, data["train"]["annotations"])
    for split in SPLITS:
        if [category["name"] for category in data[split]["categories"]] != names:
            raise InputError(f"{where}: the {split} annotations have other classes than train.")
        if data[split]["categories"] != expected:
            raise InputError(
                f"{where}: the categories of the {split} annotations have other counts than the "
                "training annotations."
            )
    counts = sorted(category["image_count"] for category in expected)
    if counts != long_tail(parameters).tolist():
        raise InputError(f"{where}: the image counts are not those of the set's parameters.")


def _check_split(
    files: SetFiles, split: str, data: dict[str, Any], parameters: Parameters, where: str
) -> None:
    """Image records are the files there are; annotations are theirs."""
    number, side = parameters.num_images(split), parameters.image_size
    if [image["id"] for image in data["images"]] != list(range(1, number + 1)):
        raise InputError(f"{where}: the images' ids are not 1 to {number}.")
    expected = {f"{split}/{image_id:06d}.jpg" for image_id in range(1, number + 1)}
    found = {path for path in files.paths() if path.startswith(f"{split}/")}
    if wrong := sorted(found ^ expected):
        raise InputError(
            f"{where}: {wrong[0]} is {'missing' if wrong[0] in expected else 'extra'}."
        )
    if [a["id"] for a in data["annotations"]] != list(range(1, len(data["annotations"]) + 1)):
        raise InputError(f"{where}: the annotations' ids do not count from 1.")

    present = defaultdict(set)
    ids = range(1, parameters.num_classes + 1)
    for annotation in data["annotations"]:
        x, y, w, h = annotation["bbox"]
        if annotation["category_id"] not in ids or not 1 <= annotation["image_id"] <= number:
            raise InputError(f"{where}: annotation {annotation['id']} is of no image or class.")
        points = np.concatenate([np.reshape(p, (-1, 2)) for p in annotation["segmentation"]])
        extent = [*points.min(axis=0), *(points.max(axis=0) - points.min(axis=0))]
        inside = x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= side and y + h <= side
        if not inside or not np.allclose(extent, [x, y, w, h], atol=1):
            raise InputError(
                f"{where}: the box of annotation {annotation['id']} is not inside its image, or "
                "not that of its outline."
            )
        present[annotation["image_id"]].add(annotation["category_id"])
    for image in data["images"]:
        name = f"{split}/{image['file_name']}"
        if name != f"{split}/{image['id']:06d}.jpg":
            raise InputError(f"{where}: image {image['id']} has the file {image['file_name']!r}.")
        with Image.open(io.BytesIO(files.read(name))) as opened:
            if not opened.size == (image["width"], image["height"]) == (side, side):
                raise InputError(f"{where}: {name} has another size than its record.")
        if image["neg_category_ids"] != sorted(set(ids) - present[image["id"]]):
            raise InputError(
                f"{where}: the neg_category_ids of image {image['id']} are not the absent classes."
            )
    if split != "train":
        counts = Counter(k for classes in present.values() for k in classes)
        for k in ids:
            if counts[k] != parameters.eval_images:
                raise InputError(
                    f"{where}: class {k} is in {counts[k]} images instead of "
                    f"{parameters.eval_images}."
                )
