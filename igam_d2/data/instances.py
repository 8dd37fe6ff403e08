"""How many instances and classes a data set has, from its annotations alone."""

import os

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import InputError
from .checks import check_annotation_file, check_registration

__all__ = ["count_instances"]


def count_instances(dataset: str) -> tuple[int, int]:
    """Instances and classes of a data set, crowd regions left out as in training.

    Args:
        dataset: an annotation file in COCO or LVIS format, or a name registered with Detectron2.

    Raises:
        InputError: no such data set, no readable annotations, or none of an instance.
    """
    is_file = dataset.endswith(".json") or os.path.isfile(dataset)
    json_file = dataset if is_file else check_registration(dataset)
    if json_file is not None:
        content = check_annotation_file(json_file)
        annotations, num_classes = content["annotations"], len(content["categories"])
    else:
        try:
            records = DatasetCatalog.get(dataset)
        except OSError as error:
            raise InputError(
                f"The annotations of {dataset!r} could not be read: {error}."
            ) from error
        annotations = [a for record in records for a in record.get("annotations", ())]
        num_classes = len(MetadataCatalog.get(dataset).get("thing_classes", ()))
    num_instances = sum(not annotation.get("iscrowd", 0) for annotation in annotations)
    if not num_instances or not num_classes:
        raise InputError(
            f"{dataset!r} has {num_instances} annotated instances of {num_classes} classes: "
            "storage can be planned for a training set with some of both."
        )
    return num_instances, num_classes
