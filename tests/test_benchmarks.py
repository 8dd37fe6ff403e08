"""The benchmarks measure what they say."""

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_turns_are_taken_and_the_first_round_is_not_counted():
    from measure import interleave, ratio_interval

    calls = []
    times = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert "".join(calls) == "abbaabba" and [len(t) for t in times.values()] == [3, 3]
    assert ratio_interval([2.0, 4.0, 9.0], [1.0, 2.0, 3.0]) == (2, 2, 3)
    median, low, high = ratio_interval([float(i) for i in range(1, 31)], [1.0] * 30)
    assert (median, low, high) == (15.5, 10, 21)  # ranks 10 and 21 of 30


def test_memory():
    from measure import peak_bytes, saved_bytes

    x = torch.ones(1000, requires_grad=True)
    weight = torch.nn.Parameter(torch.ones(1000))
    assert saved_bytes(lambda: x.exp().sum()) == 4000  # exp keeps its result
    assert saved_bytes(lambda: (x * weight).sum()) == 4000  # x, without the parameter
    assert saved_bytes(lambda: x.sum()) == 0

    def two_at_once():
        a = torch.empty(1000)
        del a
        return torch.empty(1000), torch.empty(1000)

    assert 8000 <= peak_bytes(two_at_once, "cpu") < 8200


def test_igam_loss_table():
    from igam_loss import compare

    lines = compare(64, 20, 0.75, 2, "cpu").splitlines()
    saved = {line.split("  ")[0]: line.split()[-2] for line in lines[2:]}
    assert list(saved) == ["linear CE", "cosine CE", "IGAM, textbook", "IGAM, igam_loss"]
    cells = [line.split() for line in lines[2:]]
    assert cells[1][3] == cells[1][5] == "1.00"  # cosine CE over itself
    assert float(cells[2][5]) > 2 and float(cells[3][5]) < 1.15  # saved by the loss


def test_table_of_all_losses(capsys):
    from losses import main

    from igam_d2.losses import CLS_LOSS_REGISTRY

    size = ["--rows", "64", "--classes", "20", "--repeats", "2"]
    assert main(size) == 0
    table, last = capsys.readouterr().out.strip().split("\n\n")[1:]
    cells = {line.split()[0]: line.split() for line in table.splitlines()[2:]}
    assert cells.keys() == {name for name, _ in CLS_LOSS_REGISTRY}
    assert cells["SoftmaxCELoss"][2:] == ["1.00", "1.00", "to", "1.00", "1.00"]
    assert f"of {len(cells)} above 4 times SoftmaxCELoss" in last
    assert main([*size, "--limit", "1e9"]) == 0 and main([*size, "--limit", "1e-9"]) == 1


def test_rois_come_as_the_sampler_gives_them():
    from losses import loss_context, rois

    generator = torch.Generator().manual_seed(0)
    context = loss_context(300, generator)
    counts = context["class_instance_count"]
    assert (counts.min(), counts.max()) == (1, 50_000)
    assert set(context["class_frequency"]) == set("rcf")
    foreground = rois(2048, context, 0.25, generator).view(4, 512) < 300
    assert foreground[:, :128].all() and not foreground[:, 128:].any()


def test_listing_is_the_floor():
    from refresh import listing_1, random_moments

    moments = random_moments(5, 16)
    expected = moments.information_amount(shrinkage="floor")
    got = listing_1(moments.covariance().double().numpy(), moments.count.numpy())
    torch.testing.assert_close(torch.tensor(got).float(), expected, rtol=1e-4, atol=0)


def test_evaluations_agree_and_are_timed(capfd):
    from lvis_eval import main

    assert main(["--images", "12", "--detections", "600", "--masks"]) == 0
    lines = capfd.readouterr().out.splitlines()
    ours, reference, difference = lines[2:5]
    assert ours.startswith("ours") and " s   peak memory " in ours
    assert reference.startswith("reference") and " x ours" in reference
    assert difference.startswith("largest difference of 26 metrics: ")
    assert float(difference.split()[-2]) < 1e-9
    assert "bbox AP 0.00" not in lines[5]  # some are found
