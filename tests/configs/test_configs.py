"""Configs of real data sets are what their names say, and are built at full size."""

import pytest
import torch
from config_files import ConfigFile, config_files
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from igam_d2.config import load_config
from igam_d2.loss_config import cls_loss_class
from igam_d2.losses.base import COUNTS
from igam_d2.modeling import EmbeddingClassifier

FILES = {file.name: file for file in config_files()}
DATASETS = {
    "LVISv1": ((("lvis_v1_train",), ("lvis_v1_val",)), 1203),
    "COCO-LT": ((("coco_lt_train",), ("coco_2017_val",)), 80),
    "VOC": ((("voc_2007_trainval", "voc_2012_trainval"), ("voc_2007_test",)), 20),
}


@pytest.fixture(params=FILES.values(), ids=FILES)
def file(request) -> ConfigFile:
    return request.param


def config(file: ConfigFile, *opts: str) -> CfgNode:
    return load_config(str(file.path), ["MODEL.DEVICE", "meta", *opts])


def test_data_schedule_and_loss(file):
    cfg = config(file)
    names, num_classes = DATASETS[file.path.parent.name]
    assert names == (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    assert num_classes == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        assert name in DatasetCatalog.list()
        assert len(MetadataCatalog.get(name).get("thing_classes")) == num_classes
    solver = cfg.SOLVER
    assert (solver.MAX_EPOCHS, list(solver.STEPS_EPOCHS)) == (24, [16, 22])
    assert solver.IMS_PER_BATCH == solver.REFERENCE_BATCH_SIZE == 16
    assert (solver.GAMMA, solver.MOMENTUM) == (0.1, 0.9)
    if file.arch == "detr" or file.backbone == "Swin_T":
        assert (solver.OPTIMIZER, solver.BASE_LR) == ("AdamW", 1e-4)
    else:
        assert (solver.OPTIMIZER, solver.BASE_LR, solver.WEIGHT_DECAY) == ("SGD", 0.02, 1e-4)
    assert cfg.INPUT.RANDOM_FLIP == "horizontal" and len(cfg.INPUT.MIN_SIZE_TRAIN) > 1
    assert cls_loss_class(cfg).__name__ == file.loss
    sampler = cfg.DATALOADER.SAMPLER_TRAIN
    assert sampler == (
        "RepeatFactorTrainingSampler" if "_rfs" in file.method else "TrainingSampler"
    )


def test_it_is_built_at_full_size(file):
    cfg = config(file, "DATASETS.TRAIN", "()")  # no counts: nothing is read
    # To make it on "meta" takes no time, but Swin and losses that look at counts need numbers
    numbers = cls_loss_class(cfg).asks(dict.fromkeys(COUNTS)) or file.backbone == "Swin_T"
    with torch.device("cpu" if numbers else "meta"):
        model = build_model(cfg)
    assert {p.device.type for p in model.parameters()} == {"meta"}

    classifiers = [m for m in model.modules() if isinstance(m, EmbeddingClassifier)]
    assert len(classifiers) == (3 if file.arch.startswith("cascade") else 1)
    for classifier in classifiers:
        assert type(classifier.cls_loss).__name__ == file.loss
        assert classifier.cls_score.weight.shape == (classifier.cls_loss.num_outputs, 128)
        assert classifier.information.shape == (cfg.MODEL.ROI_HEADS.NUM_CLASSES,)
    if file.arch == "detr":
        bottom_up, levels = model.backbone, 1
    else:
        assert model.roi_heads.mask_on == ("mask" in file.arch)
        bottom_up, levels = model.backbone.bottom_up, 4
    stages = {"R_50": (3, 4, 6, 3), "R_101": (3, 4, 23, 3), "Swin_T": (2, 2, 6, 2)}[file.backbone]
    if file.backbone == "Swin_T":
        assert tuple(len(layer.blocks) for layer in bottom_up.layers) == stages
    else:
        assert tuple(len(stage) for stage in bottom_up.stages) == stages
    assert len(bottom_up.output_shape()) == levels


def flat(node: CfgNode, prefix: str = "") -> dict:
    """Values by their full keys, tuples as lists."""
    values = {}
    for key, value in node.items():
        if isinstance(value, CfgNode):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = list(value) if isinstance(value, tuple) else value
    return values


@pytest.mark.parametrize(
    "name, theirs, others",
    [
        (
            "LVISv1/mask_rcnn_R_50_FPN_igam",
            "LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
            {"DATALOADER.SAMPLER_TRAIN", "DATALOADER.REPEAT_THRESHOLD"},
        ),
        (
            "LVISv1/mask_rcnn_R_101_FPN_igam",
            "LVISv1-InstanceSegmentation/mask_rcnn_R_101_FPN_1x.yaml",
            {"DATALOADER.SAMPLER_TRAIN", "DATALOADER.REPEAT_THRESHOLD"},
        ),
        (
            "LVISv1/cascade_mask_rcnn_R_50_FPN_igam",
            "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
            {
                *("DATASETS.TRAIN", "DATASETS.TEST", "MODEL.ROI_HEADS.NUM_CLASSES"),
                *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "TEST.DETECTIONS_PER_IMAGE"),
            },
        ),
        (
            "COCO-LT/faster_rcnn_R_50_FPN_igam",
            "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
            {"DATASETS.TRAIN"},
        ),
        (
            "VOC/faster_rcnn_R_50_FPN_igam",
            "PascalVOC-Detection/faster_rcnn_R_50_FPN.yaml",
            {"SOLVER.WARMUP_ITERS"},
        ),
    ],
)
def test_they_are_those_of_the_model_zoo_but_for_heads_and_schedule(name, theirs, others):
    ours = flat(load_config(str(FILES[name].path), []))
    theirs = flat(model_zoo.get_config(theirs))
    differing = {key for key, value in theirs.items() if ours[key] != value}
    unused = {
        *("MODEL.DEVICE", "OUTPUT_DIR", "SOLVER.STEPS", "SOLVER.MAX_ITER"),
        # of the mask head that a model without masks does not have
        *(key for key in theirs if "ROI_MASK_HEAD" in key and not ours["MODEL.MASK_ON"]),
    }
    assert differing - unused == {"MODEL.ROI_HEADS.NAME", *others}
