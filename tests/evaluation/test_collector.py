"""Detections of several processes become those of one, in little more memory than they take."""

import logging
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("detectron2")

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from igam_d2.detections import Detections
from igam_d2.evaluation import collector
from igam_d2.evaluation.collector import DetectionCollector


def _images(number: int, masks: bool) -> list[tuple[int, Instances]]:
    rng = np.random.default_rng(0)
    images = []
    for image_id in range(number):
        n = int(rng.integers(0, 9))
        instances = Instances((24, 30))
        instances.pred_boxes = Boxes(torch.from_numpy(rng.uniform(0, 24, (n, 4))))
        instances.scores = torch.from_numpy(rng.random(n))
        instances.pred_classes = torch.from_numpy(rng.integers(0, 5, n))
        if masks:
            instances.pred_masks = torch.from_numpy(rng.random((n, 24, 30)) < 0.3)
        images.append((image_id, instances))
    return images


def _collect(images) -> DetectionCollector:
    result = DetectionCollector()
    for image_id, instances in images:
        result.add(image_id, instances)
    return result


def _equal(a: Detections, b: Detections) -> bool:
    return list(a.records()) == list(b.records())


def _one_of_two_processes(rank: int, folder: str):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    comm._LOCAL_PROCESS_GROUP = dist.group.WORLD
    collector.CHUNK = 7  # several rounds, more on one process than on the other
    images = _images(40, masks=True)
    mine = images[:28] if rank == 0 else images[28:]
    gathered = _collect(mine).gather()
    nothing = DetectionCollector().gather()
    if rank == 0:
        detections, num_images = gathered
        expected, _ = _collect(images).gather(distributed=False)
        assert num_images == 40 and len(detections) > 100
        assert _equal(detections, expected)
        assert len(nothing[0]) == 0 and nothing[0].masks is None
    else:
        assert gathered is None and nothing is None
    dist.destroy_process_group()


def test_two_processes_gather_what_one_has(tmp_path):
    mp.spawn(_one_of_two_processes, args=(str(tmp_path),), nprocs=2)


def test_the_process_never_has_a_second_copy():
    """Not only what is allocated: what freed pieces leave behind counts too."""
    code = """
import numpy as np, sys
from igam_d2.detections import Detections
from igam_d2.evaluation.collector import DetectionCollector
def memory(key):
    with open("/proc/self/status") as f:
        return 1024 * int(next(line for line in f if line.startswith(key)).split()[1])
before, collector = memory("VmRSS"), DetectionCollector()
for image_id in range(20000):
    part = Detections.blank(300)
    for column in (part.image_id, part.category_id, part.box, part.score):
        column[:] = image_id
    collector.append(part)
detections, num_images = collector.gather(distributed=False)
peak = memory("VmHWM")
assert num_images == 20000
assert np.array_equal(detections.image_id, np.repeat(np.arange(20000), 300))
print((peak - before) / (32 * len(detections)))
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) < 1.2


def test_what_is_not_finite_is_left_out(caplog):
    images = _images(3, masks=True)
    instances = next(found for _, found in images if len(found) > 2)
    instances.scores[0], instances.pred_boxes.tensor[1, 2] = float("nan"), float("inf")
    logging.getLogger("igam_d2").propagate = True
    detections, _ = _collect(images).gather(distributed=False)
    assert len(detections) == sum(len(found) for _, found in images) - 2 == len(detections.masks)
    assert "2 detections held a NaN or Inf" in caplog.text


def test_a_model_with_masks_that_detects_nothing():
    images = [(i, found[:0]) for i, found in _images(3, masks=True)]
    detections, num_images = _collect(images).gather(distributed=False)
    assert len(detections.masks) == len(detections) == 0 and num_images == 3


def test_detections_are_what_the_model_returned(tmp_path):
    images = _images(5, masks=True)
    detections, _ = _collect(images).gather(distributed=False)
    for image_id, place in detections.of_images():
        instances = images[image_id][1]
        mine = detections[place]
        corners = instances.pred_boxes.tensor.numpy()
        assert np.array_equal(mine.box[:, 2:], corners[:, 2:] - corners[:, :2])
        assert np.array_equal(mine.score, instances.scores.float().numpy())
        assert np.array_equal(mine.category_id, instances.pred_classes.numpy())
    assert [i for i, _ in detections.of_images()] == [i for i, found in images if len(found)]
    detections.save(tmp_path / "detections.npz")
    assert _equal(Detections.load(tmp_path / "detections.npz"), detections)
    assert Detections.load(tmp_path / "detections.npz", masks=False).masks is None
