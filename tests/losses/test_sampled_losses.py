"""The losses that draw: which cells they may leave out, how many, and that the rest is the loop's.

A cell that is left out has no gradient, which tells what was drawn.
"""

import pytest
import torch
from loss_cases import assert_same, batch, build, leaves, reference, total

pytestmark = pytest.mark.usefixtures("float64")
K = 5  # of loss_cases: 0 and 4 are rare, 1 is common; instances 3, 40, 700, 5000, 10


def draw(loss, rows: int, gt_classes: list[int]) -> tuple[dict, torch.Tensor, torch.Tensor]:
    """A batch with these classes and then background; its loss, and the cells that count."""
    data = batch(loss, rows)
    data["gt_classes"][:] = K
    data["gt_classes"][: len(gt_classes)] = torch.tensor(gt_classes)
    value = total(loss(**data))
    (grad,) = torch.autograd.grad(value, data["scores"], retain_graph=True)
    return data, value, grad != 0


@pytest.mark.parametrize("name", ["DropLoss", "ACSLLoss", "BAGSLoss"])
def test_draws_are_those_of_the_seed(name):
    loss = build(name)
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(draw(loss, 200, [0, 1, 1, 2])[1])
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize(
    "gt_classes, beta",
    [([0, 1, 2, 3], 1 / 4), ([0, 4, 4, 1], 3 / 4), ([1, 2], 0), ([4], 1), ([], 1)],
)
def test_droploss_keeps_rare_classes_of_the_background_with_probability_beta(gt_classes, beta):
    torch.manual_seed(0)
    loss = build("DropLoss", rare_frequency=0.003)
    loop = reference(loss, rare_frequency=0.003)
    assert loop.beta(gt_classes) == beta
    kept = []
    for _ in range(10):
        data, value, cells = draw(loss, 400, gt_classes)
        background = cells[len(gt_classes) :]
        assert background[:, 1:4].all()
        kept.append(background[:, [0, 4]])
    loop.kept = cells.tolist()
    assert_same(value, loop(**data), leaves(data))
    kept = torch.cat(kept).double()
    if beta in (0, 1):
        assert (kept == beta).all()
    assert (kept.mean(0) - beta).abs().max() < 0.04  # 5 sigma
    assert abs(kept.prod(1).mean() - beta**2) < 0.04  # each class by itself


@pytest.mark.parametrize("num_background, rare, common", [(250, 2, 25), (99, 0, 9), (9, 0, 0)])
def test_acsl_takes_shares_of_the_background(num_background, rare, common):
    torch.manual_seed(0)
    loss = build("ACSLLoss")
    loop = reference(loss)
    times = torch.zeros(num_background)
    nested = True
    for _ in range(60):
        data, value, cells = draw(loss, 4 + num_background, [0, 1, 2, 4])
        cells = cells[4:]
        assert cells[:, [2, 3, K]].all()
        assert (cells[:, 0] == cells[:, 4]).all()  # one draw for all rare classes
        assert cells[:, 0].sum() == rare and cells[:, 1].sum() == common
        times += cells[:, 1]
        nested = nested and not (cells[:, 0] & ~cells[:, 1]).any()
    rows = {
        letter: (4 + cells[:, j].nonzero().flatten()).tolist() for letter, j in (("r", 0), ("c", 1))
    }
    loop.kept = rows
    assert_same(value, loop(**data), leaves(data))
    assert times.max() < 22  # of 6 expected: no row is preferred
    assert not (rare and nested)  # the two draws are independent


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.5, 8.0])
def test_bags_takes_others_in_proportion(beta):
    torch.manual_seed(0)
    loss = build("BAGSLoss", beta=beta)
    loop = reference(loss, beta=beta)
    gt_classes = [0, 0, 1, 4, 4, 4, 3] + [1] * 20  # none of group 2, class 2
    rows, times = 80, torch.zeros(80)
    for _ in range(20):
        data, value, cells = draw(loss, rows, gt_classes)
        assert cells[:, K : K + 2].all()
        loop.kept = []
        for g, classes in enumerate(loop.groups()):
            taken = cells[:, [*classes, K + 2 + g]]
            assert (taken.all(1) == taken.any(1)).all()  # a row counts in a group or does not
            taken = taken[:, 0]
            own = torch.isin(data["gt_classes"], torch.tensor(classes))
            size = int(own.sum())
            assert taken[own].all() and taken[~own].sum() == min(int(beta * size), rows - size)
            loop.kept.append(taken.nonzero().flatten().tolist())
            times += taken & ~own if classes == [0] else 0
    assert_same(value, loop(**data), leaves(data))
    assert (times[:2] == 0).all()
    if beta == 8:  # 16 of 78 rows, 20 times: 4 expected, of the foreground's too
        assert (times[2:] > 0).double().mean() > 0.9 and times.max() < 14


def test_bags_weighs_the_rows_that_it_takes():
    torch.manual_seed(0)
    loss = build("BAGSLoss", beta=2.0)
    loop = reference(loss)
    data = batch(loss, 30)
    data["sample_weight"] = torch.linspace(0.1, 2, 30)
    value = total(loss(**data))
    (grad,) = torch.autograd.grad(value, data["scores"], retain_graph=True)
    loop.kept = [grad[:, K + 2 + g].nonzero().flatten().tolist() for g in range(4)]
    assert_same(value, loop(**data), leaves(data))
