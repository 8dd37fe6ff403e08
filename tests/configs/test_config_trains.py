"""Every config of a real data set trains, is interrupted, resumed and evaluated, on tiny trees.

Smaller than what it is for are the images, the schedule and the numbers of proposals and detections
alone.
"""

import json
import shutil

import pytest
from config_files import ConfigFile, config_files
from detectron2.engine import HookBase
from tiny_trees import NUM_TEST_IMAGES, NUM_TRAIN_IMAGES

from igam_d2.config import load_config
from igam_d2.engine import Trainer
from igam_d2.losses import CLS_LOSS_REGISTRY

FILES = config_files()
# One of each family, over all data sets and backbones; the others take `make test-all`
FAMILIES = (
    "LVISv1/faster_rcnn_R_50_FPN_igam",
    "LVISv1/mask_rcnn_Swin_T_FPN_igam",
    "LVISv1/cascade_mask_rcnn_R_50_FPN_igam",
    "COCO-LT/faster_rcnn_R_101_FPN_seesaw",
    "VOC/cascade_rcnn_R_50_FPN_softmax_ce",
    "VOC/detr_R_50_igam",
)
BATCH_SIZE = 2
SMALL = f"""MODEL.DEVICE cpu INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64
    SOLVER.MAX_EPOCHS 1 SOLVER.STEPS_EPOCHS [] SOLVER.IMS_PER_BATCH {BATCH_SIZE}
    SOLVER.WARMUP_ITERS 0 SOLVER.BASE_LR 0.00001
    SOLVER.CHECKPOINT_PERIOD 1 DATALOADER.NUM_WORKERS 0
    MODEL.RPN.PRE_NMS_TOPK_TRAIN 60 MODEL.RPN.PRE_NMS_TOPK_TEST 20
    MODEL.RPN.POST_NMS_TOPK_TRAIN 60 MODEL.RPN.POST_NMS_TOPK_TEST 20
    MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 32 TEST.DETECTIONS_PER_IMAGE 30""".split()


class Interruption(BaseException):
    """Not an Exception, which Detectron2 would log."""


class Interrupt(HookBase):
    """Ends the training after its first iteration, whose checkpoint is then written."""

    def after_step(self):
        raise Interruption


def config(file: ConfigFile, *opts: str):
    return load_config(str(file.path), [*SMALL, *opts])


def first_stage(file: ConfigFile, folder, backbone_weights) -> str:
    """A checkpoint of the detector that a second stage is over."""
    trained = file.path.with_name(file.path.name.replace(file.method, "softmax_ce"))
    trained = ConfigFile.of(trained)
    weights = backbone_weights(config(trained))
    trainer = Trainer(config(trained, "OUTPUT_DIR", str(folder), "MODEL.WEIGHTS", weights))
    trainer.resume_or_load()
    trainer.checkpointer.save("first_stage")
    return str(folder / "first_stage.pth")


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(
            file,
            id=file.name,
            marks=[] if file.name in FAMILIES else [pytest.mark.all_configs],
        )
        for file in FILES
    ],
)
def test_config_trains_resumes_and_evaluates(file, tmp_path, datasets, backbone_weights):
    try:
        check(file, tmp_path, backbone_weights)
    finally:
        shutil.rmtree(tmp_path)  # some GB of checkpoints


def check(file: ConfigFile, folder, backbone_weights):
    if CLS_LOSS_REGISTRY.get(file.loss).second_stage:
        weights = first_stage(file, folder / "first", backbone_weights)
    else:
        weights = backbone_weights(config(file))
    cfg = config(file, "OUTPUT_DIR", str(folder / "run"), "MODEL.WEIGHTS", weights)
    trainer = Trainer(cfg)
    assert trainer.max_iter == NUM_TRAIN_IMAGES // BATCH_SIZE == 2
    trainer.resume_or_load(resume=True)
    if "resnet" in cfg.MODEL.BACKBONE.NAME:
        bottom_up = getattr(trainer.model.backbone, "bottom_up", trainer.model.backbone)
        assert (bottom_up.res2[0].conv3.norm.weight == 0.1).all()  # the weights found their place
    trainer.register_hooks([Interrupt()])
    with pytest.raises(Interruption):
        trainer.train()
    del trainer

    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 1
    trainer.train()
    assert trainer.iter == 2 and trainer.storage.latest()["total_loss"][0] > 0
    assert (folder / "run" / "model_final.pth").is_file()
    parameters = trainer.model.named_parameters()
    # Several processes would wait for such a gradient in vain
    assert not [name for name, p in parameters if p.requires_grad and p.grad is None]

    (name,) = cfg.DATASETS.TEST
    results = json.loads((folder / "run" / "inference" / name / "results.json").read_text())
    without_objects = 0 if name.startswith("voc") else 1
    assert results["num_images"] == NUM_TEST_IMAGES + without_objects
    assert set(results["metrics"]) == ({"bbox", "segm"} if cfg.MODEL.MASK_ON else {"bbox"})
    assert all(0 <= metrics["AP"] <= 100 for metrics in results["metrics"].values())
    lines = (folder / "run" / "information.jsonl").read_text().splitlines()
    assert {json.loads(line)["iteration"] for line in lines} == {2}


def test_one_of_each_family_is_there():
    chosen = [file for file in FILES if file.name in FAMILIES]
    assert len(chosen) == len(FAMILIES)
    assert {file.arch for file in chosen} == {file.arch for file in FILES}
    assert {file.backbone for file in chosen} == {file.backbone for file in FILES}
    assert {file.path.parent for file in chosen} == {file.path.parent for file in FILES}
