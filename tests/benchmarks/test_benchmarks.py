"""The benchmarks measure what they say."""

import re
import signal
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def one_thread():
    """Of small images threads wait for each other, for long on a machine that is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


@pytest.mark.parametrize(
    "config, copies", [("faster_rcnn_R_50_FPN_igam", 1), ("detr_R_50_igam", 2)]
)
def test_memory_of_a_config(config, copies, capsys, one_thread):
    from memory import main

    file = str(BENCHMARKS.parent / "configs" / "VOC" / f"{config}.yaml")
    args = ["--config-file", file, "--size", "64", "96", "--gpu-batch", "3"]
    assert main([*args, "MODEL.IGAM.QUEUE_LENGTH", "1000"]) == 0
    table = capsys.readouterr().out.split("\n--")[1]
    rows = dict(re.findall(r"^(.*?)  +([\d,.]+)$", table, flags=re.MULTILINE))
    mib = {name: float(size.replace(",", "")) for name, size in rows.items()}
    names = list(mib)
    number = int(re.search(r"[\d,]+\d", names[0])[0].replace(",", ""))
    assert 0 <= mib[names[0]] - number * 4 / 2**20 < 2  # buffers
    assert mib[names[1]] == mib[names[2]] < mib[names[0]]  # the first layers are frozen
    assert mib[names[3]] == pytest.approx(copies * mib[names[1]], abs=0.1)
    kept = float(names[4].split()[-1])
    assert names[4].startswith("activations, 3 x") and kept > 1
    assert mib[names[4]] == pytest.approx(3 * kept, abs=0.2)
    assert mib["moments of the classes, 1 classifier"] == 1.3  # 20 (128^2 + 128) float32
    assert mib["queue, 1 classifier"] == 0.5  # 1,000 of 128, and their classes
    assert mib["total"] == pytest.approx(sum(mib.values()) - mib["total"], abs=0.5)


def test_memory_that_is_not_there(monkeypatch, capsys):
    import memory

    monkeypatch.setattr(memory, "free_bytes", lambda: 2**20)
    file = str(BENCHMARKS.parent / "configs" / "VOC" / "faster_rcnn_R_50_FPN_igam.yaml")
    assert memory.main(["--config-file", file, "--size", "64", "96"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: A step needs about ") and "1.0 MiB are free" in error
    assert memory.main(["--config-file", "nowhere.yaml"]) == 2
    monkeypatch.undo()
    assert memory.free_bytes() > 2**20


def test_memory_is_without_views_of_weights():
    from measure import saved_bytes
    from memory import bytes_kept

    layer, x = torch.nn.Linear(100, 50), torch.ones(10, 100, requires_grad=True)
    assert bytes_kept(layer, lambda: layer(x).sum()) == x.nbytes
    assert bytes_kept(torch.nn.Module(), lambda: x.exp().sum()) == saved_bytes(
        lambda: x.exp().sum()
    )


def test_foreground_is_as_much_as_the_sampler_takes():
    from detectron2.structures import Boxes, Instances, pairwise_iou
    from memory import with_foreground

    truth = Instances((60, 80), gt_boxes=Boxes(torch.tensor([[5.0, 5, 40, 50], [20, 10, 70, 30]])))
    boxes = Boxes(torch.tensor([[0.0, 0, 3, 3]]))
    found = Instances((60, 80), proposal_boxes=boxes, objectness_logits=torch.zeros(1))
    (joined,), losses = with_foreground(7)(None, (None, None, [truth]), ([found], {"loss": 1}))
    overlap = pairwise_iou(joined.proposal_boxes, truth.gt_boxes).max(dim=1).values
    assert len(joined) == 8 and losses == {"loss": 1}
    assert (overlap[:7] > 0.9).all() and overlap[7] == 0


def test_throughput_beside_detectron2(capsys, monkeypatch, one_thread):
    import throughput
    from throughput import ALL, BARE, STOCK, main

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(throughput, "SWITCHES", {"fused": throughput.SWITCHES["fused"]})
    main(["--size", "64", "96", "--images", "4", "--steps", "1", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    rows = [re.split(r"  +", line) for line in lines if line[:4] in ("Dete", "ours")]
    rows = {name: cells for name, *cells in rows}
    assert [*rows] == [STOCK, BARE, "ours, fused", ALL]
    assert all(float(speed) > 0 for speed, *_ in rows.values())
    assert rows[STOCK][1:] == ["1.00", "1.00 to 1.00"]
    assert signal.getsignal(signal.SIGTERM) is handler
