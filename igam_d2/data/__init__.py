from .checks import check_annotation_file, check_test_datasets, load_training_set
from .counts import ClassCounts, class_counts
from .mapper import CheckedMapper, UnreadableImageError, build_test_loader
from .own_data import register_datasets
from .register import register_coco_lt, register_digits_lt
from .samplers import ClassAwareTrainingSampler
from .train_loader import BatchStream, build_train_loader

__all__ = [
    "BatchStream",
    "CheckedMapper",
    "ClassAwareTrainingSampler",
    "ClassCounts",
    "UnreadableImageError",
    "build_test_loader",
    "build_train_loader",
    "check_annotation_file",
    "check_test_datasets",
    "class_counts",
    "load_training_set",
    "register_datasets",
]

register_digits_lt()
register_coco_lt()
