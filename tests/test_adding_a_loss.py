"""The page on adding a loss: its code is run as it stands, and its loss trained."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec

from igam_d2 import add_igam_config
from igam_d2.data import class_counts
from igam_d2.losses import CLS_LOSS_REGISTRY
from igam_d2.losses.base import CONTEXT, ClsLoss
from igam_d2.modeling import CosineOutputLayers

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "adding-a-loss.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def names():
    """What the page's Python defines; its loss is registered meanwhile."""
    defined = {}
    exec(blocks("python")[0], defined)
    yield defined
    CLS_LOSS_REGISTRY._obj_map.pop("LogitAdjustedLoss")


def test_its_test_passes(names):
    exec(blocks("python")[1], names)


def test_its_loss_is_chosen_by_its_config_and_trains(names, digits):
    cfg = get_cfg()
    add_igam_config(cfg)
    (yaml,) = blocks("yaml")
    cfg.merge_from_other_cfg(CfgNode(CfgNode.load_cfg(yaml)))
    cfg.DATASETS.TRAIN = ("digits_lt_train",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 10
    layers = CosineOutputLayers(cfg, ShapeSpec(channels=16))
    loss = layers.cls_loss
    assert type(loss) is names["LogitAdjustedLoss"]
    counts = torch.from_numpy(class_counts(("digits_lt_train",)).instance_count)
    expected = 0.5 * (counts / counts.double().mean()).log()
    torch.testing.assert_close(loss.adjustment[:-1], expected.float())
    assert loss.adjustment[-1] == 0
    torch.manual_seed(0)
    x, gt_classes = torch.randn(12, 16), torch.arange(12) % 11
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.5)
    values = []
    for _ in range(20):
        scores, _, embeddings = layers(x)
        parts = loss(
            scores, gt_classes, embeddings=embeddings, class_weight=layers.cls_score.weight
        )
        optimizer.zero_grad()
        sum(parts.values()).backward()
        optimizer.step()
        values.append(sum(parts.values()).item())
    assert values[-1] < 0.5 * values[0]


def test_it_names_everything_a_class_can_say():
    said = {name for name in vars(ClsLoss) if not name.startswith("_")} - {"asks"}
    missing = [name for name in sorted(said) if f"`{name}`" not in PAGE]
    assert not missing
    assert all(f"`{name}`" in PAGE for name in CONTEXT)
