from .checks import check_annotation_file, check_test_datasets, load_training_set
from .register import register_digits_lt

__all__ = ["check_annotation_file", "check_test_datasets", "load_training_set"]

register_digits_lt()
