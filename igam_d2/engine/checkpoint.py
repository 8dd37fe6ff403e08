"""A checkpointer that does not pass over weights of another shape in silence."""

import logging

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager

from ..errors import InputError

__all__ = ["Checkpointer"]


class Checkpointer(DetectionCheckpointer):
    """Refuses weights that do not fit when a run is resumed or, with `exact`, evaluated.

    When a new run starts from the weights of another data set, the parts that differ start
    untrained, as is usual in Detectron2; a warning names them.
    """

    def __init__(self, model, save_dir="", *, save_to_disk=None, exact=False, **checkpointables):
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self._exact = exact

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
