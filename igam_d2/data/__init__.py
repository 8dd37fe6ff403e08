from .checks import check_annotation_file, check_test_datasets, load_training_set
from .counts import ClassCounts, class_counts
from .register import register_digits_lt
from .samplers import ClassAwareTrainingSampler
from .train_loader import BatchStream, build_train_loader

__all__ = [
    "BatchStream",
    "ClassAwareTrainingSampler",
    "ClassCounts",
    "build_train_loader",
    "check_annotation_file",
    "check_test_datasets",
    "class_counts",
    "load_training_set",
]

register_digits_lt()
