"""The detections of a data set as arrays: 32 bytes each, where a dictionary takes 456."""

import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError

__all__ = ["Detections", "Masks"]


@dataclass
class Masks:
    """Run-length codes of N masks, one after the other.

    Attributes:
        codes: (total length,) uint8, COCO's compressed RLE.
        ends: (N,) int64, where each mask's code ends.
        sizes: (N, 2) int32, height and width of the mask.
    """

    codes: np.ndarray
    ends: np.ndarray
    sizes: np.ndarray

    @classmethod
    def pack(cls, rles: Iterable[dict[str, Any]]) -> "Masks":
        """From RLE dicts of ``size`` and ``counts`` (bytes)."""
        rles = list(rles)
        return cls(
            np.frombuffer(b"".join(rle["counts"] for rle in rles), dtype=np.uint8),
            np.cumsum([len(rle["counts"]) for rle in rles], dtype=np.int64),
            np.array([rle["size"] for rle in rles], dtype=np.int32).reshape(-1, 2),
        )

    def __len__(self) -> int:
        return len(self.ends)

    def unpack(self) -> list[dict[str, Any]]:
        """As RLE dicts of ``size`` and ``counts`` (bytes)."""
        codes, start, rles = self.codes.tobytes(), 0, []
        for end, size in zip(self.ends.tolist(), self.sizes.tolist(), strict=True):
            rles.append({"size": size, "counts": codes[start:end]})
            start = end
        return rles

    def __getitem__(self, index: np.ndarray | slice) -> "Masks":
        """Some of them: a boolean mask, positions, or a slice without a step."""
        lengths = np.diff(self.ends, prepend=0)
        ends = np.cumsum(lengths[index])
        if isinstance(index, slice):
            first = index.indices(len(self))[0]
            start = self.ends[first - 1] if first else 0
            codes = self.codes[start : start + ends[-1]] if len(ends) else self.codes[:0]
        elif index.dtype == bool:
            codes = self.codes[np.repeat(index, lengths)]
        else:
            # For each byte its place in the old codes: start of its mask, and how far into it
            starts = (self.ends - lengths)[index] - (ends - lengths[index])
            places = np.repeat(starts, lengths[index])
            codes = self.codes[places + np.arange(len(places))]
        return Masks(codes, ends, self.sizes[index])


@dataclass
class Detections:
    """N detections, those of an image together.

    Attributes:
        image_id: (N,) int64, of the annotation file.
        category_id: (N,) int32, of the annotation file.
        box: (N, 4) float32: left, top, width, height in pixels.
        score: (N,) float32.
        masks: of the detections, or None.
    """

    image_id: np.ndarray
    category_id: np.ndarray
    box: np.ndarray
    score: np.ndarray
    masks: Masks | None = None

    @classmethod
    def blank(cls, length: int, code_length: int | None = None) -> "Detections":
        """Room for so many, to be :meth:`put` there; with `code_length` bytes for their masks."""
        masks = None
        if code_length is not None:
            codes = np.empty(code_length, dtype=np.uint8)
            masks = Masks(codes, np.empty(length, np.int64), np.empty((length, 2), np.int32))
        return cls(
            np.empty(length, dtype=np.int64),
            np.empty(length, dtype=np.int32),
            np.empty((length, 4), dtype=np.float32),
            np.empty(length, dtype=np.float32),
            masks,
        )

    def put(self, part: "Detections", start: int, code_start: int = 0) -> None:
        """Overwrite those from `start` on, and the masks' codes from `code_start` on."""
        place = slice(start, start + len(part))
        self.image_id[place], self.category_id[place] = part.image_id, part.category_id
        self.box[place], self.score[place] = part.box, part.score
        if self.masks is not None and part.masks is not None:
            self.masks.codes[code_start : code_start + len(part.masks.codes)] = part.masks.codes
            self.masks.ends[place] = part.masks.ends + code_start
            self.masks.sizes[place] = part.masks.sizes

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, index: np.ndarray | slice) -> "Detections":
        """Some of them: a boolean mask, positions, or a slice."""
        masks = None if self.masks is None else self.masks[index]
        columns = (self.image_id, self.category_id, self.box, self.score)
        return Detections(*(column[index] for column in columns), masks)

    def of_images(self) -> Iterable[tuple[int, slice]]:
        """Each image's id and the place of its detections."""
        if not len(self):
            return
        starts = np.flatnonzero(np.diff(self.image_id, prepend=self.image_id[0] - 1))
        ends = [*starts[1:].tolist(), len(self)]
        for start, end in zip(starts.tolist(), ends, strict=True):
            yield int(self.image_id[start]), slice(start, end)

    def save(self, file) -> None:
        """Write to a binary file; NumPy's npz, without compression."""
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "masks"}
        if self.masks is not None:
            columns |= {f"mask_{f.name}": getattr(self.masks, f.name) for f in fields(Masks)}
        np.savez(file, **columns)

    @classmethod
    def load(cls, path: str | Path, *, masks: bool = True) -> "Detections":
        """Read what :meth:`save` wrote.

        Raises:
            InputError: if the file is missing, cut short, or something else.
        """
        try:
            with np.load(path) as data:
                columns = {f.name: data[f.name] for f in fields(cls) if f.name != "masks"}
                if masks and "mask_codes" in data:
                    columns["masks"] = Masks(*(data[f"mask_{f.name}"] for f in fields(Masks)))
            if len({len(column) for column in columns.values()}) != 1:
                raise ValueError("its columns are of different lengths")
        except FileNotFoundError as error:
            raise InputError(
                f"The detections {path} are missing: evaluate again with `python train_net.py "
                "--config-file ... --eval-only MODEL.WEIGHTS ...`."
            ) from error
        except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} is not a whole file of detections ({error}): evaluate again with "
                "`python train_net.py --config-file ... --eval-only MODEL.WEIGHTS ...`."
            ) from error
        return cls(**columns)

    def records(self) -> Iterable[dict[str, Any]]:
        """One by one, as dictionaries of COCO's and LVIS's format of results."""
        rles = [None] * len(self) if self.masks is None else self.masks.unpack()
        for i, rle in enumerate(rles):
            record = {
                "image_id": int(self.image_id[i]),
                "category_id": int(self.category_id[i]),
                "bbox": self.box[i].tolist(),
                "score": float(self.score[i]),
            }
            if rle is not None:
                counts = rle["counts"].decode("ascii")
                record["segmentation"] = {"size": rle["size"], "counts": counts}
            yield record

    def save_json(self, path: str | Path) -> None:
        """Write COCO's and LVIS's JSON of results, as their evaluation servers take it."""
        with open(path, "w") as f:
            f.write("[")
            for i, record in enumerate(self.records()):
                f.write((",\n" if i else "") + json.dumps(record))
            f.write("]")
