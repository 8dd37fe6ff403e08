"""A checkpointer that survives being killed, and does not pass over weights of another shape."""

import logging
import math
import pickle
import zipfile
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n

from ..errors import InputError, TransientError
from ..files import write_whole

__all__ = ["Checkpointer"]


class Checkpointer(DetectionCheckpointer):
    """Writes files whole or not at all, and resumes from the last one that is whole.

    Refuses weights that do not fit when a run is resumed or, with `exact`, evaluated. When a new
    run starts from the weights of another data set, the parts that differ start untrained, as is
    usual in Detectron2; a warning names them.
    """

    def __init__(self, model, save_dir="", *, save_to_disk=None, exact=False, **checkpointables):
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self._exact = exact

    def save(self, name: str, **kwargs) -> None:
        """As in fvcore, but a file is there under its name only when it is complete."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data |= {key: value.state_dict() for key, value in self.checkpointables.items()} | kwargs
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        try:
            write_whole(path, lambda f: torch.save(data, f))
            self.tag_last_checkpoint(path.name)
        except (OSError, RuntimeError) as error:  # torch makes the latter of a disk that is full
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise TransientError(
                f"The checkpoint {str(path)!r} could not be written ({reason}); those before it "
                "are kept: make room and resume."
            ) from error

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Names the checkpoint to resume from."""
        path = Path(self.save_dir) / "last_checkpoint"
        write_whole(path, lambda f: f.write(last_filename_basename.encode()))

    def has_checkpoint(self) -> bool:
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """The last checkpoint if it is whole, else the last before it that is; "" without one.

        All processes get what the main process finds. The directory of a file of `torch.save` is
        written last, so that one without it was cut off.
        """
        return comm.all_gather(self._find_checkpoint() if comm.is_main_process() else None)[0]

    def _find_checkpoint(self) -> str:
        folder = Path(self.save_dir)
        tag = folder / "last_checkpoint"
        files = sorted(folder.glob("model_*.pth"), key=_iteration, reverse=True)
        if tag.is_file() and (last := folder / tag.read_text().strip()).is_file():
            files = [last, *(file for file in files if _iteration(file) < _iteration(last))]
        chosen = next((file for file in files if zipfile.is_zipfile(file)), None)
        broken = files[: files.index(chosen)] if chosen else files
        since = chosen.stat().st_mtime if chosen else 0
        broken += [part for part in folder.glob("*.pth.part") if part.stat().st_mtime > since]
        if broken:
            names = ", ".join(file.name for file in broken)
            rest = f"the last whole checkpoint is {chosen.name}" if chosen else "none is whole"
            log_first_n(
                logging.WARNING,
                f"{names} in {folder} {'was' if len(broken) == 1 else 'were'} cut off while being "
                f"written; {rest}.",
                name=__name__,
                key="message",
            )
        return str(chosen or "")

    def load(self, path, checkpointables=None):
        if not path and self._exact:
            raise InputError(
                "No weights to evaluate: name them on the command line, MODEL.WEIGHTS PATH."
            )
        if path and "://" not in path and not PathManager.isfile(path):
            raise InputError(f"There is no checkpoint at {path!r} (MODEL.WEIGHTS).")
        self._path = path
        # `resume_or_load` names no checkpointables when it resumes, and an empty list otherwise.
        self._must_fit = self._exact or checkpointables is None
        return super().load(path, checkpointables)

    def _torch_load(self, f):
        try:
            return torch.load(f, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise InputError(
                f"The checkpoint {f!r} is none, or holds more than tensors and plain values, which "
                "is not read because it could run code."
            ) from error
        except (RuntimeError, EOFError) as error:
            raise InputError(
                f"The checkpoint {f!r} cannot be read; it may have been cut off."
            ) from error

    def _load_model(self, checkpoint):
        incompatible = super()._load_model(checkpoint)
        if incompatible is None:
            return None
        parameters = {name.removeprefix("module.") for name, _ in self.model.named_parameters()}
        differences = [
            f"{key} has shape {tuple(found)} there and {tuple(expected)} in this model"
            for key, found, expected in sorted(
                incompatible.incorrect_shapes, key=lambda entry: "cls_score" not in entry[0]
            )
        ]
        if self._must_fit:
            differences += [
                f"{key} is not in it"
                for key in incompatible.missing_keys
                if key.removeprefix("module.") in parameters
            ]
        if not differences:
            return incompatible
        more = f" ({len(differences) - 1} more differences)" if len(differences) > 1 else ""
        if self._must_fit:
            raise InputError(
                f"The checkpoint {self._path!r} is of another model or number of classes: "
                f"{differences[0]}{more}; use the config that it was trained with."
            )
        logging.getLogger(__name__).warning(
            "The weights %r are of another model or number of classes: %s%s; these parts start "
            "untrained.",
            *(self._path, differences[0], more),
        )
        return incompatible


def _iteration(path: Path) -> float:
    number = path.stem.rpartition("_")[2]
    return int(number) if number.isdigit() else math.inf  # model_final
