"""A checkpointer that survives being killed, and does not pass over weights of another shape."""

import logging
import math
import os
import pickle
import zipfile
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n

from ..errors import InputError, TransientError
from ..files import write_whole
from ..losses import ClsLoss
from ..modeling import EmbeddingClassifier
from .freeze import second_stage_loss
from .published_weights import from_published

__all__ = ["Checkpointer"]

_KINDS = "igam_d2/classifiers"  # key of a checkpoint
_WHERE = "it must be the path of a file, or a URL with https://, http:// or detectron2://"


class Checkpointer(DetectionCheckpointer):
    """Writes files whole or not at all, and resumes from the last one that is whole.

    Refuses weights that do not fit when a run is resumed or, with `exact`, evaluated. When a new
    run starts from the weights of another data set, the parts that differ start untrained, as is
    usual in Detectron2; a warning names them. So does a classifier of another kind, also where its
    shape is the same, and in any case the state of losses. Under a loss of a second stage
    everything but the loss must fit.
    """

    def __init__(self, model, save_dir="", *, save_to_disk=None, exact=False, **checkpointables):
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self._exact = exact

    def save(self, name: str, **kwargs) -> None:
        """As in fvcore, but a file is there under its name only when it is complete."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data[_KINDS] = {
            name: module.cls_loss.classifier
            for name, module in self.model.named_modules()
            if isinstance(module, EmbeddingClassifier)
        }
        data |= {key: value.state_dict() for key, value in self.checkpointables.items()} | kwargs
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        try:
            write_whole(path, lambda f: torch.save(data, f))
            self.tag_last_checkpoint(path.name)
        except (OSError, RuntimeError) as error:  # torch makes the latter of a disk that is full
            raise TransientError(
                f"The checkpoint {str(path)!r} could not be written ({_reason(error)}); those "
                "before it are kept: make room and resume."
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
        self._second_stage = second_stage_loss(self.model)
        if not path and self._second_stage is not None:
            raise InputError(
                f"{type(self._second_stage).__name__} trains over a detector that is trained "
                "already and frozen: name its weights in MODEL.WEIGHTS."
            )
        self._path = path
        # `resume_or_load` names no checkpointables when it resumes, and an empty list otherwise.
        self._must_fit = self._exact or checkpointables is None
        return super().load(self._local(path) if path else path, checkpointables)

    def _local(self, path: str) -> str:
        """The file of `path`, downloaded if need be: in each process, of which those on one machine
        wait for the first. Detectron2's query (`?matching_heuristics=True`) stays behind it.
        """
        try:
            url = urlparse(path)
            local = self.path_manager.get_local_path(url._replace(query="").geturl())
        except (OSError, HTTPException) as error:
            raise TransientError(
                f"The weights {path!r} could not be downloaded ({_reason(error)}); try again, or "
                "download it and name the file in MODEL.WEIGHTS."
            ) from error
        except ValueError as error:
            raise InputError(
                f"MODEL.WEIGHTS is {path!r}, which is no URL ({_reason(error)}): {_WHERE}."
            ) from error
        if not os.path.isfile(local):
            known = f": {_WHERE}" if url.scheme else ""
            raise InputError(f"There is no checkpoint at {path!r} (MODEL.WEIGHTS){known}.")
        return f"{local}?{url.query}" if url.query else local

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
        checkpoint["model"] = from_published(self.model, checkpoint["model"], self._path)
        self._check_classifiers(checkpoint["model"], checkpoint.get(_KINDS, {}))
        if not self._must_fit:
            self._forget_loss_state(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        if not self._must_fit:
            for module in self.model.modules():
                if isinstance(module, EmbeddingClassifier):  # its loss has forgotten them
                    module.set_information(module.information)
        if incompatible is None:
            return None
        differences = [
            f"{key} has shape {tuple(found)} there and {tuple(expected)} in this model"
            for key, found, expected in sorted(
                incompatible.incorrect_shapes, key=lambda entry: "cls_score" not in entry[0]
            )
        ]
        missing = self._required(incompatible.missing_keys)
        differences += [f"{key} is not in it{_why_missing(key)}" for key in missing]
        if not differences:
            return incompatible
        more = f" ({len(differences) - 1} more differences)" if len(differences) > 1 else ""
        text = f"of another model or number of classes: {differences[0]}{more}"
        if self._must_fit:
            raise InputError(
                f"The checkpoint {self._path!r} is {text}; use the config that it was trained with."
            )
        if self._second_stage is not None:
            raise InputError(
                f"The weights {self._path!r} are {text}; {type(self._second_stage).__name__} needs "
                "those of a whole detector, which it freezes."
            )
        logging.getLogger(__name__).warning(
            "The weights %r are %s; these parts start untrained.", self._path, text
        )
        return incompatible

    def _required(self, missing_keys: list[str]) -> list[str]:
        """The missing keys that must not be: of old checkpoints, buffers but a loss's may be."""
        parameters = {name for name, _ in self.model.named_parameters()}
        of_loss = tuple(
            f"{name}." for name, module in self.model.named_modules() if isinstance(module, ClsLoss)
        )
        if self._must_fit:
            return [key for key in missing_keys if key in parameters or key.startswith(of_loss)]
        if self._second_stage is not None:
            return [
                key for key in missing_keys if key in parameters and not key.startswith(of_loss)
            ]
        return []

    def _forget_loss_state(self, state: dict[str, torch.Tensor]) -> None:
        """Takes the buffers of losses out of `state`: they are of another training, of other data
        perhaps, and begin anew. Parameters, as those of a second stage, are weights like others.
        """
        for name, module in self.model.named_modules():
            if isinstance(module, ClsLoss):
                for buffer, _ in module.named_buffers():
                    state.pop(f"{_wrapping(state)}{name}.{buffer}".removeprefix("."), None)

    def _check_classifiers(self, state: dict[str, torch.Tensor], kinds: dict[str, str]) -> None:
        """Refuses rows of a classifier of another kind, or takes them out of `state`.

        Their shape may agree, as if they had been trained: it is the bias that tells, and without
        one what the checkpoint says of its predictors, "linear" or "cosine".
        """
        wrapped = _wrapping(state)
        differing = []
        for name, module in self.model.named_modules():
            if not isinstance(module, EmbeddingClassifier):
                continue
            layer = f"{name}.cls_score".removeprefix(".")
            weight, bias = (f"{wrapped}{layer}.{part}" for part in ("weight", "bias"))
            expects_bias = getattr(module.cls_score, "bias", None) is not None
            expected = _kind(module.cls_loss.classifier, expects_bias)
            found = _kind(kinds.get(name), bias in state)
            either = name not in kinds and bias not in state and not expects_bias
            if weight not in state or found == expected or either:
                continue
            loss = type(module.cls_loss).__name__
            differing.append(f"{found} in {layer}, where {loss} has {expected}")
            if not self._must_fit:
                state.pop(weight), state.pop(bias, None)
        if not differing:
            return
        more = f" ({len(differing) - 1} more like it)" if len(differing) > 1 else ""
        if self._must_fit:
            ours = any(key.rpartition(".")[2] == "information" for key in state)
            key = "MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME" if ours else "MODEL.ROI_HEADS.NAME"
            raise InputError(
                f"The checkpoint {self._path!r} has {differing[0]}{more}; set {key} to what it was "
                "trained with."
            )
        if self._second_stage is not None:
            raise InputError(
                f"The weights {self._path!r} have {differing[0]}{more}; it needs those of a "
                "detector with such a classifier, which it freezes."
            )
        logging.getLogger(__name__).warning(
            "The weights %r have %s%s; it starts untrained.", self._path, differing[0], more
        )


def _wrapping(state: dict[str, torch.Tensor]) -> str:
    """What DistributedDataParallel put in front of every name of a checkpoint."""
    return "module." if state and all(key.startswith("module.") for key in state) else ""


def _kind(classifier: str | None, bias: bool) -> str:
    if bias:
        return "a linear classifier with bias"
    if classifier == "linear":
        return "a linear classifier without bias"
    return "a cosine classifier" if classifier else "a classifier without bias"


def _why_missing(key: str) -> str:
    if not key.endswith(".embedding.weight"):
        return ""
    return " (a detector without one, such as Detectron2's: MODEL.IGAM.EMBEDDING_DIM 0)"


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", None)  # of a URLError
    if isinstance(cause, OSError):
        error = cause
    return getattr(error, "strerror", None) or " ".join(str(error).split())


def _iteration(path: Path) -> float:
    number = path.stem.rpartition("_")[2]
    return int(number) if number.isdigit() else math.inf  # model_final
