"""Renders the images of Meshes-LT in several processes, and measures how diverse its views are."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from igam_d2.data.meshes_lt_images import compose
from igam_d2.data.meshes_lt_plan import Parameters, stream
from igam_d2.data.meshes_lt_render import Cutout, Renderer, load_mesh
from igam_d2.data.outlines import mask_box, mask_polygons
from igam_d2.data.photos import background, photo_region, save_jpeg
from igam_d2.errors import TransientError

__all__ = ["PHOTO_SHARES", "Workers"]

PHOTO_SHARES = {"train": (0.0, 0.6), "selection": (0.6, 0.8), "test": (0.8, 1.0)}
CROP_SIZE = (72, 240)  # pixels of the photo
NUM_VIEWS, VIEW_SIZE = 64, 24  # that meshes_lt.DIVERSITY tells of
_SECONDS = 5  # between two lines of progress

Task = tuple[str, int, list[int]]  # split, image id, classes
Made = tuple[dict[str, Any], list[dict[str, Any]]]  # the image's record, its annotations


class Workers:
    """Processes that render a set; one job is this process itself.

    Args:
        jobs: of them.
        progress: takes a line now and then, if any.
        folder: of the set, with a folder for each split.
        parameters, meshes, photos: of the set.

    Raises:
        InputError: pybullet is missing.
    """

    def __init__(
        self,
        jobs: int,
        progress: Callable[[str], None] | None,
        folder: Path,
        parameters: Parameters,
        meshes: np.ndarray,
        photos: dict[str, np.ndarray],
    ):
        self._progress = progress
        self._num_classes = len(meshes)
        arguments = (folder, parameters, meshes, photos)
        self._pool = self._painter = None
        if jobs == 1:
            self._painter = _Painter(*arguments)
            return
        load_mesh(0)  # a missing package is said here, not by every process
        # A fork starts at once; elsewhere than on Linux it is not safe
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._pool = ProcessPoolExecutor(jobs, context, initializer=_start, initargs=arguments)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        else:
            self._painter.close()

    def images(self, tasks: list[Task]) -> list[Made]:
        """Write all images; their records, in the order of the tasks.

        Raises:
            InputError: an image has no room for its objects.
            TransientError: a process was killed.
        """
        return self._run("image", tasks, "images")

    def diversities(self) -> list[float]:
        """How much the views of each class differ, as `meshes_lt.DIVERSITY` says."""
        return self._run("diversity", range(self._num_classes), "classes measured")

    def _run(self, method: str, tasks: Iterable, what: str) -> list:
        start = said = time.monotonic()
        results = []
        try:
            if self._pool:
                made = self._pool.map(partial(_run, method), tasks, chunksize=4)
            else:
                made = map(getattr(self._painter, method), tasks)
            for result in made:
                results.append(result)
                now = time.monotonic()
                if self._progress and now - said >= _SECONDS:
                    said = now
                    left = (now - start) / len(results) * (len(tasks) - len(results))
                    count = f"{len(results):,} of {len(tasks):,} {what}"
                    self._progress(f"{count}, about {left:.0f} s left")
        except BrokenProcessPool as error:
            raise TransientError(
                "A process that renders was killed, for want of memory perhaps: try fewer --jobs."
            ) from error
        return results


class _Painter:
    """What a process needs to make any image of a set."""

    def __init__(self, folder: Path, parameters: Parameters, meshes: np.ndarray, photos: dict):
        self.folder = folder
        self.parameters = parameters
        self.meshes = [int(mesh) for mesh in meshes]
        self.names = sorted(photos)
        self.regions = {
            split: [photo_region(photos[name], *shares) for name in self.names]
            for split, shares in PHOTO_SHARES.items()
        }
        self.load = lru_cache(maxsize=None)(load_mesh)
        self.renderer = Renderer()

    def close(self) -> None:
        self.renderer.close()

    def image(self, task: Task) -> Made:
        """Write an image, and give its records; they depend on nothing made before."""
        split, image_id, classes = task
        rng = stream(self.parameters, "image", split, image_id)
        size = self.parameters.image_size
        photo = int(rng.integers(len(self.names)))
        region = self.regions[split][photo]
        backdrop, crop = background(rng, *region, image_size=size, crop_size=CROP_SIZE)
        present = [classes[i] for i in rng.permutation(len(classes))]
        picture = compose(rng, backdrop, [partial(self._view, self.meshes[k]) for k in present])
        file_name = f"{image_id:06d}.jpg"
        save_jpeg(self.folder / split / file_name, picture.image)
        absent = set(range(len(self.meshes))).difference(present)
        image = {
            "id": image_id,
            "file_name": file_name,
            "height": size,
            "width": size,
            "license": 1,
            "neg_category_ids": sorted(k + 1 for k in absent),
            "not_exhaustive_category_ids": [],
            "photo": self.names[photo],
            "crop": crop,
        }
        annotations = []
        for index, (k, whole) in enumerate(zip(present, picture.areas, strict=True)):
            mask = picture.owner == index
            annotations.append(
                {
                    "image_id": image_id,
                    "category_id": k + 1,
                    "bbox": mask_box(mask),
                    "area": float(mask.sum()),
                    "segmentation": mask_polygons(mask),
                    "visible": round(float(mask.sum()) / whole, 3),
                }
            )
        return image, annotations

    def _view(self, mesh: int, rng: np.random.Generator, size: float) -> Cutout:
        return self.renderer.cutout(rng, self.load(mesh), size)

    def diversity(self, k: int) -> float:
        """Of class k."""
        rng = stream(self.parameters, "views", self.meshes[k])
        views = np.zeros((NUM_VIEWS, VIEW_SIZE + 2, VIEW_SIZE + 2, 2))
        for view in views:
            rgb, alpha = self.renderer.plain_view(rng, self.load(self.meshes[k]), VIEW_SIZE)
            height, width = alpha.shape
            row, column = (len(view) - height) // 2, (len(view) - width) // 2
            centred = view[row : row + height, column : column + width]
            centred[..., 0], centred[..., 1] = alpha, rgb.mean(axis=2) / 255
        flat = views.reshape(NUM_VIEWS, -1)
        distances = np.sqrt(((flat[:, None] - flat[None]) ** 2).mean(axis=2))
        return float(distances[np.triu_indices(NUM_VIEWS, 1)].mean())


_painter: _Painter | None = None  # of a process of the pool


def _start(*arguments) -> None:
    global _painter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the pool
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    _painter = _Painter(*arguments)


def _end_with_parent() -> None:
    """A pool's processes would wait for ever for one that was killed."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _run(method: str, task: Any) -> Any:
    return getattr(_painter, method)(task)
