"""Renders the images of Meshes-LT in several processes, and measures how diverse its views are."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from multiprocessing.connection import Connection, wait
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

    Each has a pipe of its own, not a queue that they share: one that is killed, even while it
    sends, ends its pipe and holds no lock that the others wait for.

    Args:
        jobs: how many.
        progress: takes a line now and then, if any.
        folder: of the set, with a folder for each split.
        parameters: of the set.
        meshes: (K,) the mesh of each class.
        photos: by name, (H, W, 3) uint8 RGB.

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
        self._painter: _Painter | None = None
        self._processes: dict[Connection, multiprocessing.Process] = {}
        if jobs == 1:
            self._painter = _Painter(*arguments)
            return
        load_mesh(0)  # a missing package is said here, not by every process
        # A fork starts at once; elsewhere than on Linux it is not safe
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        # A fork has the threads of OpenCV's pool by name alone, and would wait for them for ever
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        for _ in range(jobs):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, *arguments), daemon=True)
            process.start()
            theirs.close()  # the process alone holds that end: when it ends, so does the pipe
            self._processes[ours] = process
        cv2.setNumThreads(threads)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_) -> None:
        if self._painter:
            self._painter.close()
        for process in self._processes.values():
            process.terminate()
        for connection, process in self._processes.items():
            process.join()  # who removes the folder then finds that nothing is added to it
            connection.close()

    def images(self, tasks: list[Task]) -> list[Made]:
        """Write all images; their records, in the order of the tasks.

        Raises:
            InputError: an image has no room for its objects.
            TransientError: a process was killed.
        """
        return self._run("image", tasks, "images")

    def diversities(self) -> list[float]:
        """How much the views of each class differ, as `meshes_lt.DIVERSITY` says.

        Raises:
            TransientError: a process was killed.
        """
        return self._run("diversity", range(self._num_classes), "classes measured")

    def _run(self, method: str, tasks: Sequence, what: str) -> list:
        start = said = time.monotonic()
        results = [None] * len(tasks)
        for done, (index, result) in enumerate(self._results(method, tasks), start=1):
            results[index] = result
            now = time.monotonic()
            if self._progress and now - said >= _SECONDS:
                said = now
                left = (now - start) / done * (len(tasks) - done)
                self._progress(f"{done:,} of {len(tasks):,} {what}, about {left:.0f} s left")
        return results

    def _results(self, method: str, tasks: Sequence) -> Iterator[tuple[int, Any]]:
        """The index and the result of each task, in the order in which they are done."""
        if self._painter:
            for index, task in enumerate(tasks):
                yield index, getattr(self._painter, method)(task)
            return
        waiting = ((index, method, task) for index, task in enumerate(tasks))
        busy = set()
        try:
            for connection, order in zip(self._processes, waiting, strict=False):
                connection.send(order)
                busy.add(connection)
            while busy:
                for connection in wait(busy):
                    index, result = connection.recv()
                    if isinstance(result, Exception):
                        raise result
                    if order := next(waiting, None):
                        connection.send(order)
                    else:
                        busy.remove(connection)
                    yield index, result
        except (EOFError, ConnectionError) as error:
            raise TransientError(
                "A process that renders was killed, for want of memory perhaps: try fewer --jobs."
            ) from error


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


def _serve(connection: Connection, *arguments) -> None:
    """What a process does until it is ended: take a task, send its index and its result."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the others,
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # with this, whatever it does at one itself
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)  # of a process that was spawned
    painter = _Painter(*arguments)
    while True:
        index, method, task = connection.recv()
        try:
            result = getattr(painter, method)(task)
        except Exception as error:
            error.add_note(traceback.format_exc())  # the pipe takes the error without its frames
            result = error
        connection.send((index, result))


def _end_with_parent() -> None:
    """A process would wait for ever for a main process that was killed."""
    multiprocessing.parent_process().join()
    os._exit(1)
