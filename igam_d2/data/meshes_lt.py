"""Meshes-LT: rendered objects over real photographs, with LVIS's long tail, in its v1 format.

How many images a class has and how hard it is to learn are independent here: the classes are object
meshes that pybullet ships, and a seed says which of them gets which count. The set needs no
download.

* Counts: LVIS v1's image counts at evenly spaced quantiles, scaled to the number of images.
* Views: every object in an image is rendered anew, from anywhere and under its own light.
* Splits: "train", "selection" (to choose hyperparameters by) and "test" have their own views, and
  their own regions of each photograph, so that no pixel is shared.
* Annotation is complete, of what can be seen of each object: every class that is not in an image is
  in its `neg_category_ids`.

Beside LVIS's keys an image has `photo` and `crop` (XYWH in that photo), and an annotation
`visible`, the share of its object that no other covers. The image root of a split is its folder.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from igam_d2.class_statistics import correlation
from igam_d2.data.digits_lt import frequency_group
from igam_d2.data.meshes_lt_plan import (
    SPLITS,
    VERSION,
    Parameters,
    class_name,
    plan,
    spread,
    stream,
)
from igam_d2.data.photos import load_photos
from igam_d2.errors import InputError
from igam_d2.files import write_json

__all__ = ["SUMS", "annotation_file", "categories_of", "make_meshes_lt", "set_paths"]

SUMS = "SHA256SUMS"
DIVERSITY = (
    "mean distance of two of 64 random views of the mesh, in grey under one light, each scaled to "
    "24 pixels on its longer side and centred: root mean square over opacity and luminance, 0 to 1"
)


def make_meshes_lt(
    root: str | os.PathLike[str],
    *,
    jobs: int | None = None,
    progress: Callable[[str], None] | None = None,
    **parameters: Any,
) -> dict[str, Path]:
    """Make the set under `<root>/<name>`, unless it is there with the same parameters.

    The same parameters give the same bytes. A set whose files are not all there is made again;
    one of other parameters is never replaced, for it took minutes and results may rest on it.

    Args:
        root: the folder of all data sets ($DETECTRON2_DATASETS).
        jobs: processes; None takes one a core.
        progress: takes a line now and then.
        parameters: of :class:`Parameters`.

    Returns:
        paths: those of :func:`set_paths`.

    Raises:
        InputError: a parameter is out of its range, something else has the set's name, an image
            has no room for its objects, or a package is missing.
        OSError: it cannot be written.
        TransientError: a process was killed.
    """
    wanted = Parameters(**parameters)
    jobs = (os.cpu_count() or 1) if jobs is None else jobs
    if type(jobs) is not int or jobs < 1:
        raise InputError(f"--jobs is {jobs!r}: it must be a whole number from 1.")
    target = Path(root) / wanted.name
    if not _made_with(target, wanted):
        _refuse_to_replace(target, wanted)
        photos = load_photos("Meshes-LT", extra="bench")
        target.parent.mkdir(parents=True, exist_ok=True)
        # The set appears under its name only when complete: an interrupted run leaves no half of it
        temporary = Path(tempfile.mkdtemp(prefix=f".{wanted.name}-", dir=target.parent))
        try:
            temporary.chmod(0o755)
            _make(temporary, wanted, photos, jobs, progress)
            if target.exists():
                shutil.rmtree(target)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return set_paths(target)


def set_paths(folder: Path) -> dict[str, Path]:
    """Paths of a set: "root", "diversity", and of each split its image folder and, as
    "<split>_json", its annotation file.
    """
    return (
        {"root": folder, "diversity": folder / "diversity.json"}
        | {split: folder / split for split in SPLITS}
        | {f"{split}_json": folder / annotation_file(folder.name, split) for split in SPLITS}
    )


def annotation_file(name: str, split: str) -> str:
    """Where it lies below the folder of the set `name`."""
    return f"annotations/{name}_{split}.json"


def _made_with(target: Path, wanted: Parameters) -> bool:
    """Whether `target` holds the complete set of these parameters."""
    try:
        files = [line[66:] for line in (target / SUMS).read_text().splitlines()]
    except (OSError, ValueError):
        return False
    same = _parameters_of(target) == wanted.as_json()
    return same and all((target / file).is_file() for file in files)


def _parameters_of(folder: Path) -> Any:
    """What its `parameters.json` holds; None without a readable one."""
    try:
        return json.loads((folder / "parameters.json").read_text())
    except (OSError, ValueError):
        return None


def _refuse_to_replace(target: Path, wanted: Parameters) -> None:
    """Raises InputError where `target` is anything but what is left of the same set."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    found, expected = _parameters_of(target), wanted.as_json()
    if found == expected:
        return
    what = "something else than a set of Meshes-LT"
    if isinstance(found, dict) and found.keys() == expected.keys():
        other = (f"{key} {found[key]}" for key, value in expected.items() if found[key] != value)
        what = f"a set of other parameters ({', '.join(other)})"
    raise InputError(f"{str(target)!r} is {what}: move it away, or give another --name.")


def _make(
    folder: Path,
    parameters: Parameters,
    photos: dict[str, np.ndarray],
    jobs: int,
    progress: Callable[[str], None] | None,
) -> None:
    """Write everything into `folder`; the sums come last."""
    # Here, not above: it needs OpenCV and pybullet, and who only looks at a set does not
    from igam_d2.data.meshes_lt_work import Workers

    meshes, train_counts = plan(parameters)
    eval_counts = np.full(len(meshes), parameters.eval_images)
    tasks = []
    for split in SPLITS:
        (folder / split).mkdir()
        images = spread(
            stream(parameters, "spread", split),
            train_counts if split == "train" else eval_counts,
            parameters.num_images(split),
        )
        tasks += [(split, image_id, classes) for image_id, classes in enumerate(images, start=1)]
    with Workers(jobs, progress, folder, parameters, meshes, photos) as workers:
        made = workers.images(tasks)
        diversities = workers.diversities()

    data: dict[str, dict[str, list]] = {s: {"images": [], "annotations": []} for s in SPLITS}
    for (split, _, _), (image, annotations) in zip(tasks, made, strict=True):
        data[split]["images"].append(image)
        for annotation in annotations:
            number = len(data[split]["annotations"]) + 1
            data[split]["annotations"].append({"id": number, **annotation})
    names = [class_name(mesh) for mesh in meshes]
    categories = categories_of(names, data["train"]["annotations"])
    (folder / "annotations").mkdir()
    for split in SPLITS:
        content = {
            "info": {
                "description": f"Meshes-LT {split}: rendered objects over photographs",
                "version": str(VERSION),
                "parameters": parameters.as_json(),
            },
            "licenses": [
                {"id": 1, "name": "see pybullet, scikit-image and scikit-learn", "url": ""}
            ],
            "categories": categories,
            **data[split],
        }
        path = folder / annotation_file(parameters.name, split)
        path.write_text(json.dumps(content, separators=(",", ":")))
    (folder / "parameters.json").write_text(json.dumps(parameters.as_json(), indent=1) + "\n")
    counts = [category["image_count"] for category in categories]
    write_json(
        folder / "diversity.json",
        {
            "measure": DIVERSITY,
            "spearman_with_image_count": correlation(diversities, counts)["spearman"],
            "image_count": dict(zip(names, counts, strict=True)),
            "diversity": dict(zip(names, (round(d, 6) for d in diversities), strict=True)),
        },
    )
    _write_sums(folder)


def _write_sums(folder: Path) -> None:
    """SHA256SUMS of all files below a folder, as `sha256sum -c` reads it."""
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"{digest}  {path.relative_to(folder).as_posix()}\n")
    (folder / SUMS).write_text("".join(lines))


def categories_of(names: list[str], annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """LVIS's categories of K classes with the counts of the training split's annotations."""
    instances = Counter(a["category_id"] for a in annotations)
    images = Counter(k for _, k in {(a["image_id"], a["category_id"]) for a in annotations})
    return [
        {
            "id": category_id,
            "name": name,
            "synset": f"{name}.n.01",
            "synonyms": [name],
            "def": f"the object of random_urdfs/{name[5:]} of pybullet_data",
            "frequency": frequency_group(images[category_id]),
            "image_count": images[category_id],
            "instance_count": instances[category_id],
        }
        for category_id, name in enumerate(names, start=1)
    ]
