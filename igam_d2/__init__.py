"""Information-amount-guided angular margins for long-tailed detection, as a Detectron2 project.

Importing the package fills Detectron2's registries. Without Detectron2 only the lower half can be
imported: `functional`, `moments`, `losses`, `detections`, `class_statistics`, `report`.
"""

import warnings

__version__ = "0.1.0"

try:
    import detectron2  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
    warnings.warn(
        "Detectron2 is not installed, so that only igam_d2.functional, .moments, .losses and "
        ".report can be used: run `make setup`, or "
        "`pip install 'git+https://github.com/facebookresearch/detectron2.git'`.",
        stacklevel=2,
    )
    __all__ = []
else:
    with warnings.catch_warnings():
        # Raised by Detectron2 and fvcore when they are imported; nothing a user can mend
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.jit\._script")
        from . import data, engine, evaluation, modeling
        from .config import add_igam_config, load_config

    __all__ = ["add_igam_config", "data", "engine", "evaluation", "load_config", "modeling"]
