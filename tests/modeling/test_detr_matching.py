"""Which query gets which instance: costs against loops, assignments against all there are."""

import logging
import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils import logger

from igam_d2.modeling.detr.matcher import HungarianMatcher, Targets

LAYERS, QUERIES, K = 2, 4, 5


def matcher() -> HungarianMatcher:
    return HungarianMatcher(cls_cost=1.0, l1_cost=5.0, giou_cost=2.0)


def problem(counts: list[int], seed: int = 0, dtype=torch.float64):
    """Probabilities, boxes and targets."""
    g = torch.Generator().manual_seed(seed)
    probs = torch.randn(LAYERS, len(counts), QUERIES, K + 1, generator=g, dtype=dtype).softmax(-1)
    boxes, truth = (
        torch.rand(*shape, 4, generator=g, dtype=dtype).mul(0.8).add(0.1)
        for shape in ((LAYERS, len(counts), QUERIES), (sum(counts),))
    )
    classes = torch.randint(K, (sum(counts),), generator=g)
    return probs, boxes, Targets(truth, classes, counts, classes.numpy())


def cost_of_pair(p: list[float], box: list[float], truth: list[float], k: int) -> float:
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = (
        (x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in (box, truth)
    )
    inner = max(0, min(ax1, bx1) - max(ax0, bx0)) * max(0, min(ay1, by1) - max(ay0, by0))
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - inner
    hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
    giou = inner / union - (hull - union) / hull
    return -p[k] + 5 * sum(abs(a - b) for a, b in zip(box, truth, strict=True)) - 2 * giou


def cost_matrices(probs, boxes, targets) -> list[list[np.ndarray]]:
    """(Q, G_i) of every layer and image."""
    truth, classes = targets.boxes.tolist(), targets.classes.tolist()
    matrices = []
    for p, b in zip(probs.tolist(), boxes.tolist(), strict=True):
        start, of_layer = 0, []
        for p_i, b_i, count in zip(p, b, targets.counts, strict=True):
            own = range(start, start + count)
            of_layer.append(
                np.array(
                    [
                        [cost_of_pair(p_i[q], b_i[q], truth[g], classes[g]) for g in own]
                        for q in range(QUERIES)
                    ]
                ).reshape(QUERIES, count)
            )
            start += count
        matrices.append(of_layer)
    return matrices


def least_cost(cost: np.ndarray) -> float:
    """Over all ways to pair as many as can be."""
    short, long = sorted(cost.shape)
    rows = cost if len(cost) == short else cost.T
    return min(
        sum(rows[i, j] for i, j in enumerate(chosen)) for chosen in permutations(range(long), short)
    )


@pytest.mark.parametrize("counts", [[3, 0, 1], [4, 2], [6, 2], [0, 0], [1]])
@pytest.mark.parametrize("seed", range(3))
def test_costs_are_those_of_each_pair_and_the_assignment_is_the_best_of_all(counts, seed):
    probs, boxes, targets = problem(counts, seed)
    expected = cost_matrices(probs, boxes, targets)
    flat = matcher().costs(probs, boxes, targets)
    in_order = [expected[layer][i].ravel() for i in range(len(counts)) for layer in range(LAYERS)]
    np.testing.assert_allclose(flat, np.concatenate(in_order), rtol=1e-12, atol=1e-12)

    matches = matcher().match(probs, boxes, targets)
    assert matches.predicted.tolist() == probs[-1].flatten(0, 1).argmax(1).tolist()
    rows, instances = (t.tolist() for t in matches.to(boxes.device))
    assert len(rows) == LAYERS * sum(min(count, QUERIES) for count in counts)
    pairs = iter(zip(rows, instances, strict=True))
    for layer in range(LAYERS):
        start = 0
        for i, count in enumerate(counts):
            own = [next(pairs) for _ in range(min(count, QUERIES))]
            queries = [row - (layer * len(counts) + i) * QUERIES for row, _ in own]
            objects = [instance - start for _, instance in own]
            assert all(0 <= q < QUERIES for q in queries) and len(set(queries)) == len(own)
            assert objects == sorted(set(objects)) and all(0 <= g < count for g in objects)
            cost = expected[layer][i]
            total = sum(cost[q, g] for q, g in zip(queries, objects, strict=True))
            assert total == pytest.approx(least_cost(cost) if count else 0, abs=1e-9)
            start += count


def test_the_order_of_instances_does_not_matter():
    probs, boxes, targets = problem([3, 2])
    order = torch.tensor([2, 0, 1, 4, 3])
    classes = targets.classes[order]
    shuffled = Targets(targets.boxes[order], classes, targets.counts, classes.numpy())
    first, other = (matcher().match(probs, boxes, t) for t in (targets, shuffled))
    pairs = set(zip(first.rows.tolist(), first.instances.tolist(), strict=True))
    assert pairs == set(zip(other.rows.tolist(), order[other.instances].tolist(), strict=True))


def test_instances_beyond_the_queries_are_left_out_with_a_warning(caplog, monkeypatch):
    monkeypatch.setattr(logger, "_LOG_COUNTER", Counter())  # of what is said only once
    probs, boxes, targets = problem([QUERIES + 3])
    with caplog.at_level(logging.WARNING):
        matches = matcher().match(probs, boxes, targets)
        matcher().match(probs, boxes, targets)
    assert sorted(matches.rows.tolist()) == list(range(LAYERS * QUERIES))
    assert len(set(matches.instances[:QUERIES].tolist())) == QUERIES
    (message,) = [r.message for r in caplog.records if "more than 4 instances" in r.message]
    assert "NUM_QUERIES" in message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_costs_that_are_no_numbers_are_avoided(value, caplog, monkeypatch):
    monkeypatch.setattr(logger, "_LOG_COUNTER", Counter())
    probs, boxes, targets = problem([2])
    costs = matcher().costs(probs, boxes, targets).numpy()
    costs.reshape(LAYERS, QUERIES, 2)[:, :2] = value
    with caplog.at_level(logging.WARNING):
        rows, _ = matcher().assign(costs, [2], LAYERS, QUERIES)
    assert sorted(rows % QUERIES) == [2, 2, 3, 3]
    assert "smaller SOLVER.BASE_LR or gradient clipping" in caplog.text
    costs[:] = value  # a model that has diverged: its loss says so
    rows, instances = matcher().assign(costs, [2], LAYERS, QUERIES)
    assert len(set(rows)) == 4 and instances.tolist() == [0, 1] * LAYERS


def test_a_degenerate_box_does_not_stop_the_matching():
    probs, boxes, targets = problem([2], dtype=torch.float32)
    boxes[:, :, 1, 2:] = 0
    targets.boxes[0] = boxes[0, 0, 1]  # no area either: their GIoU is 0 / 0
    rows = matcher().match(probs, boxes, targets).rows
    assert len(set(rows.tolist())) == 2 * LAYERS


def test_targets_are_relative_to_each_image_without_its_padding():
    truths = []
    for size, corners in (((40, 80), [[0.0, 0, 80, 40], [20, 10, 40, 20]]), ((50, 10), [])):
        truth = Instances(size)
        truth.gt_boxes = Boxes(torch.tensor(corners).reshape(-1, 4))
        truth.gt_classes = torch.arange(len(corners))
        truths.append(truth)
    targets = Targets.of(truths, torch.device("cpu"))
    expected = torch.tensor([[0.5, 0.5, 1, 1], [0.375, 0.375, 0.25, 0.25]])
    torch.testing.assert_close(targets.boxes, expected)
    assert targets.counts == [2, 0]
    assert targets.classes.tolist() == targets.host_classes.tolist() == [0, 1]
