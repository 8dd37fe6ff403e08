"""Arrays of detections: parts of them, and files."""

import io

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from igam_d2.detections import Detections, Masks
from igam_d2.errors import InputError


def _random(n: int) -> tuple[Detections, list[dict]]:
    rng = np.random.default_rng(n)
    rles = [
        mask_utils.encode(np.asfortranarray(rng.random((6, 8)) < 0.4, np.uint8)) for _ in "x" * n
    ]
    columns = (
        rng.integers(0, 9, n),
        rng.integers(0, 9, n),
        rng.random((n, 4), np.float32),
        rng.random(n, np.float32),
    )
    return Detections(*columns, Masks.pack(rles)), rles


@pytest.mark.parametrize(
    "index", [np.array([4, 0, 4]), slice(1, 4), np.array([True, False, True, True, False])]
)
def test_some_of_them(index):
    detections, rles = _random(5)
    some = detections[index]
    places = np.arange(5)[index]
    assert np.array_equal(some.score, detections.score[places])
    assert some.masks.unpack() == [rles[i] for i in places]
    assert len(detections[np.zeros(5, bool)].masks) == 0


def test_put():
    detections, rles = _random(5)
    whole = Detections.blank(5, len(detections.masks.codes))
    tail = detections[2:]
    code_start = len(detections.masks.codes) - len(tail.masks.codes)
    whole.put(tail, 2, code_start)
    whole.put(detections[:2], 0)
    assert list(whole.records()) == list(detections.records())
    assert whole.masks.unpack() == rles


def test_files_that_are_missing_or_cut_short(tmp_path):
    with pytest.raises(InputError, match=r"d\.npz are missing: evaluate again"):
        Detections.load(tmp_path / "d.npz")
    buffer = io.BytesIO()
    _random(5)[0].save(buffer)
    for content in (buffer.getvalue()[:-50], b"", b"PK\x03\x04nothing", b'{"a": 1}'):
        (tmp_path / "d.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"d\.npz is not a whole file of detections"):
            Detections.load(tmp_path / "d.npz")
    np.savez(tmp_path / "d.npz", image_id=np.zeros(3))
    with pytest.raises(InputError, match=r"d\.npz is not a whole file of detections"):
        Detections.load(tmp_path / "d.npz")
