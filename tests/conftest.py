import contextlib
import io

import pytest
import torch
from detectron2.config import CfgNode, get_cfg

from igam_d2.config import add_igam_config

# Several at a time wait for each other where the machine has other work: ten times slower
torch.set_num_threads(1)


@pytest.fixture
def cfg() -> CfgNode:
    """A tiny detector with the project's keys, on the CPU; ten classes, images of 64 px."""
    cfg = get_cfg()
    add_igam_config(cfg)
    tiny = """
VERSION: 2
SEED: 1
VIS_PERIOD: 0
MODEL:
  DEVICE: cpu
  WEIGHTS: ""
  META_ARCHITECTURE: GeneralizedRCNN
  BACKBONE: {NAME: build_resnet_fpn_backbone, FREEZE_AT: 0}
  RESNETS: {OUT_FEATURES: [res3, res4, res5], NORM: BN, DEPTH: 50, STEM_OUT_CHANNELS: 4,
            RES2_OUT_CHANNELS: 8, WIDTH_PER_GROUP: 2}
  FPN: {IN_FEATURES: [res3, res4, res5], OUT_CHANNELS: 8}
  ANCHOR_GENERATOR: {SIZES: [[16, 32]], ASPECT_RATIOS: [[1.0]]}
  PROPOSAL_GENERATOR: {NAME: RPN}
  RPN: {IN_FEATURES: [p3, p4, p5], POST_NMS_TOPK_TRAIN: 40, POST_NMS_TOPK_TEST: 20}
  ROI_HEADS: {NAME: IGAMROIHeads, NUM_CLASSES: 10, BATCH_SIZE_PER_IMAGE: 16, IN_FEATURES: [p3],
              SCORE_THRESH_TEST: 0.0001}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 1, FC_DIM: 16, POOLER_RESOLUTION: 4}
  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 1, CONV_DIM: 8, POOLER_RESOLUTION: 4}
  IGAM: {EMBEDDING_DIM: 8, QUEUE_LENGTH: 30}
INPUT: {MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64, MAX_SIZE_TRAIN: 64, MAX_SIZE_TEST: 64,
        RANDOM_FLIP: none}
DATALOADER: {NUM_WORKERS: 0}
SOLVER: {IMS_PER_BATCH: 4, BASE_LR: 0.01, MAX_ITER: 6, STEPS: [], WARMUP_ITERS: 2,
         CHECKPOINT_PERIOD: 4}
TEST: {DETECTIONS_PER_IMAGE: 300}
"""
    cfg.merge_from_other_cfg(CfgNode(CfgNode.load_cfg(tiny)))
    return cfg


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory):
    """A folder of data sets with a small Digits-LT in it, of the same ten classes."""
    from igam_d2.data.digits_lt import make_digits_lt

    root = tmp_path_factory.mktemp("datasets")
    with contextlib.redirect_stdout(io.StringIO()):
        make_digits_lt(
            root,
            num_train_images=24,
            train_image_counts=(16, 10, 8, 6, 5, 4, 3, 3, 2, 2),
            num_val_images=12,
            val_image_count=4,
        )
    return root


@pytest.fixture
def digits(digits_root):
    """The small Digits-LT in the place of the one that is registered."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from igam_d2.data.register import register_digits_lt

    def register(root):
        for name in ("digits_lt_train", "digits_lt_val"):
            if name in DatasetCatalog.list():
                DatasetCatalog.remove(name)
                MetadataCatalog.remove(name)
        register_digits_lt(root)

    register(digits_root)
    yield digits_root
    register(None)
