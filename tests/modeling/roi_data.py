"""RoIs, ground truth and images of 64 px for the tests of the heads."""

import torch
from detectron2.structures import Boxes, Instances, PolygonMasks


def proposals(num: int, gt_classes: list[int], seed: int = 0) -> Instances:
    corners = torch.rand(num, 2, generator=torch.Generator().manual_seed(seed)) * 40
    boxes = Boxes(torch.cat([corners, corners + 20], dim=1))
    return Instances(
        (64, 64),
        proposal_boxes=boxes,
        gt_boxes=boxes.clone(),
        gt_classes=torch.tensor(gt_classes).long(),
    )


def truth(boxes: list[list[float]], classes: list[int]) -> Instances:
    boxes = torch.tensor(boxes).reshape(-1, 4)
    polygons = [[torch.tensor([x0, y0, x1, y0, x1, y1]).numpy()] for x0, y0, x1, y1 in boxes]
    return Instances(
        (64, 64),
        gt_boxes=Boxes(boxes),
        gt_classes=torch.tensor(classes, dtype=torch.int64),
        gt_masks=PolygonMasks(polygons),
    )


def image(instances: Instances | None = None) -> dict:
    generator = torch.Generator().manual_seed(0)
    record = {"image": torch.rand(3, 64, 64, generator=generator) * 255, "height": 64, "width": 64}
    return record if instances is None else {**record, "instances": instances}
