"""The command that measures what each estimate of information amounts says of a detector."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.modeling import build_model
from scipy import stats

from igam_d2.data.digits_lt import CLASS_NAMES
from igam_d2.engine.measure import DetectorMoments
from igam_d2.engine.measured_images import ground_truth_batches, load_records
from igam_d2.errors import InputError
from igam_d2.functional import SHRINKAGES, information_amount

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAME = "roi_heads.box_predictor"


@pytest.fixture
def command(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import evidence_information

    yield evidence_information
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def run(command, cfg, digits, tmp_path, capsys):
    """Runs the command; returns the content of its file, and what it printed."""
    cfg.MODEL.PIXEL_STD = [60.0] * 3  # embeddings of moderate size
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "weights.pth")
    cfg.DATASETS.TRAIN = ("digits_lt_train",)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(yaml.safe_load(cfg.dump())))

    def run(*options: object) -> tuple[dict, str]:
        path = tmp_path / "new" / "evidence.json"
        arguments = ["--config-file", tmp_path / "config.yaml", "--train", "digits_lt_train"]
        arguments += ["--balanced", "digits_lt_val", "--output", path, *options]
        command.main([str(a) for a in (*arguments, "MODEL.WEIGHTS", tmp_path / "weights.pth")])
        return json.loads(path.read_text()), capsys.readouterr().out

    return run


@pytest.fixture
def side_files(tmp_path) -> tuple[Path, Path]:
    diversity, results = tmp_path / "diversity.json", tmp_path / "results.json"
    numbers = {name: 0.1 * k for k, name in enumerate(reversed(CLASS_NAMES))}
    diversity.write_text(
        json.dumps({"image_count": dict.fromkeys(CLASS_NAMES, 3), "diversity": numbers})
    )
    classes = [
        {"name": name, "group": "f", "AP": {"bbox": (7.0 * k) % 10}}
        for k, name in enumerate(CLASS_NAMES)
    ]
    classes[4]["AP"]["bbox"] = None
    results.write_text(json.dumps({"classes": classes}))
    return diversity, results


def test_every_estimate_of_the_same_moments(command, run, cfg, side_files, tmp_path):
    diversity, results = side_files
    content, page = run("--diversity", diversity, "--results", results, "--frequent", 2)
    assert page == (tmp_path / "new" / "evidence.md").read_text() + "\n"
    entry = content["predictors"][NAME]
    classes = entry["classes"]
    assert [c["name"] for c in classes] == list(CLASS_NAMES)
    assert {c["n_balanced"] for c in classes} == {content["per_class"]}
    assert [c["AP"] for c in classes][3:6] == [1.0, None, 5.0]
    assert classes[1]["diversity"] == pytest.approx(0.8)

    model = build_model(cfg)
    model.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True)["model"])
    records = load_records(cfg, ("digits_lt_train",), 10, None)
    k = int(np.argmax([c["n_train"] for c in classes]))
    kept = command.KeptEmbeddings([k])
    moments = DetectorMoments(model).measure(
        ground_truth_batches(cfg, records), len(records), observe=kept
    )[NAME]
    assert [c["n_train"] for c in classes] == moments.count.tolist()
    for key in SHRINKAGES:
        bits = moments.information_amount(shrinkage=key).tolist()
        found = [c["info_train"][key] for c in classes]
        for c, one, other in zip(classes, found, bits, strict=True):
            assert one is None if c["n_train"] < 2 else one == pytest.approx(other, rel=1e-3)
    ((found, x),) = kept.of(NAME)
    assert found == k and len(x) == moments.count[k]
    covariance = moments.covariance()[k].numpy()
    assert np.cov(x.numpy().T, bias=True) == pytest.approx(covariance, rel=1e-3, abs=1e-4)

    measured = [c for c in classes if c["n_train"] >= 2]
    found = entry["correlations"]["info_train"]["oas"]
    bits = [c["info_train"]["oas"] for c in measured]
    expected = stats.spearmanr(bits, [c["n_train"] for c in measured]).statistic
    assert found["log_n_train"]["spearman"][0] == pytest.approx(expected)
    assert found["log_n_train"]["num_classes"] == len(measured)
    known = [c for c in measured if c["AP"] is not None]
    assert found["AP"]["num_classes"] == found["AP | log_n_train"]["num_classes"] == len(known)
    assert found["info_balanced"] == found["info_balanced oas"]
    frequent = sorted(classes, key=lambda c: -c["n_train"])[:2]
    assert {s["name"] for s in entry["subsamples"]} == {c["name"] for c in frequent}
    for s in entry["subsamples"]:
        (c,) = (c for c in classes if c["name"] == s["name"])
        assert s["n"] == c["n_train"] and 2 * max(s["sizes"]) <= s["n"]
        for key in SHRINKAGES:
            assert s["estimates"][key]["full"] == pytest.approx(c["info_train"][key], rel=1e-3)
    for table in (command.correlation_table, command.subsample_table):
        assert table(content) in page


def test_without_diversity_and_ap(command, run):
    content, page = run("--per-class", 3, "--embedding-dim", 4, "--draws", 2)
    entry = content["predictors"][NAME]
    assert entry["embedding_dim"] == 4 and content["per_class"] == 3
    assert all(c["n_balanced"] <= 3 for c in entry["classes"])
    assert entry["classes"][0]["AP"] is entry["classes"][0]["diversity"] is None
    assert entry["correlations"]["info_train"]["oas"]["AP"]["num_classes"] == 0
    assert "info_train, log_n_train" in page and "info_train, AP" not in page


def _records(*classes: tuple[int, ...]) -> list[dict]:
    return [
        {"file_name": f"{i}", "annotations": [{"category_id": k} for k in of]}
        for i, of in enumerate(classes)
    ]


def test_the_same_number_of_every_class(command):
    records = _records((0, 0, 1), (1, 2), (1,), (2, 0))
    records[0]["annotations"].append({"category_id": 3, "iscrowd": 1})
    number, kept = command.equalised(records)
    assert number == 2
    found = {r["file_name"]: [a["category_id"] for a in r["annotations"]] for r in kept}
    assert found == {"0": [0, 0, 1], "1": [1, 2], "3": [2]}
    assert len(records[0]["annotations"]) == 4  # as they were
    with pytest.raises(InputError, match="a single instance"):
        command.equalised(_records((0, 0, 1)))
    assert command.equalised(_records((0, 0, 1)), 1)[1][0]["annotations"] == [
        {"category_id": 0},
        {"category_id": 1},
    ]


def test_kept_embeddings(command):
    kept = command.KeptEmbeddings([1, 2])
    x = torch.arange(12.0).reshape(6, 2)
    x[4] = torch.inf
    kept("a", x, torch.tensor([1, 0, 1, 1, 1, 2]))
    kept("a", x, torch.tensor([1, 0, 2, 2, 0, 0]))
    ((k, found),) = kept.of("a")
    assert k == 1 and found.tolist() == x[[0, 2, 3, 0]].tolist() and found.dtype == torch.float64
    assert kept.of("b") == []


def test_subsets(command):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(400, 6)))
    found = command.subsample(x, (2, 50, 200, 201), 30, 0)
    assert found["n"] == 400 and found["sizes"] == [2, 50, 200]
    covariance = torch.from_numpy(np.cov(x.numpy().T, bias=True))
    for key, of in found["estimates"].items():
        n = torch.tensor(400)
        expected = information_amount(covariance, n, shrinkage=key).item()
        assert of["full"] == pytest.approx(expected)
    none, oas = (found["estimates"][key] for key in ("none", "oas"))
    assert none["mean"][0] < none["mean"][1] < none["mean"][2] < none["full"]
    assert abs(oas["mean"][2] - oas["full"]) < 0.15
    assert found == command.subsample(x, (2, 50, 200), 30, 0)


def test_correlations_and_tables(command):
    rng = np.random.default_rng(0)
    count, truth = np.round(np.geomspace(2, 2000, 30)), rng.permutation(30) + 1.0
    classes = [
        {
            "name": f"mesh_{k:03}",
            "n_train": int(count[k]),
            "n_balanced": 20,
            "info_train": {key: -count[k] if key == "floor" else truth[k] for key in SHRINKAGES},
            "info_balanced": dict.fromkeys(SHRINKAGES, truth[k]),
            "diversity": truth[k] if k else None,
            "AP": truth[k] + 4 * np.log(count[k]),
        }
        for k in range(30)
    ]
    found = command.correlations(classes)
    oas, floor = found["info_train"]["oas"], found["info_train"]["floor"]
    assert oas["info_balanced"]["spearman"] == pytest.approx([1, 1, 1])
    assert oas["diversity"]["num_classes"] == 29
    assert floor["log_n_train"]["spearman"][0] == pytest.approx(-1)
    assert oas["AP | log_n_train"]["spearman"][0] > oas["AP"]["spearman"][0]
    assert np.isnan(floor["AP | log_n_train"]["spearman"][0])  # the count says it all
    assert "info_balanced" not in found["info_balanced"]["oas"]
    none = {key: {"full": 9.0, "mean": [3.0, 8.96], "std": [1.0, 0.1]} for key in SHRINKAGES}
    subsamples = [
        {"name": "a", "n": 1000, "sizes": [2, 500], "estimates": none},
        {"name": "b", "n": 90, "sizes": [2], "estimates": none},
    ]
    content = {
        "predictors": {
            "p": {"embedding_dim": 8, "correlations": found, "subsamples": subsamples},
        }
    }
    rows = {}
    for table in (command.correlation_table(content), command.subsample_table(content)):
        for line in table.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows[line.split(" | ")[0].strip("| ")] = cells
    assert rows["info_train, info_balanced"][3] == "1.00 [1.00, 1.00]"
    assert rows["info_train, log_n_train"][2] == "-1.00 [-1.00, -1.00]"
    assert rows["info_train, diversity"][-1] == "29"
    assert any(name.startswith("log_n_train, AP") for name in rows)
    assert rows["2"][1:] == ["-6.0 ± 0.0"] * 4 + ["2"]
    assert rows["500"][1:] == ["+0.0"] * 4 + ["1"]
    assert rows["all (90 to 1,000)"][1] == "9.0 ± 0.0"


def test_mistakes_end_in_a_sentence(run, side_files, tmp_path, capsys):
    def sentence(*options: object) -> str:
        with pytest.raises(SystemExit) as end:
            run(*options)
        captured = capsys.readouterr()
        assert end.value.code == 2 and captured.out == ""
        return captured.err

    diversity, _ = side_files
    diversity.write_text('{"diversity": {"zero": 1}}')
    assert "has no diversity of every class" in sentence("--diversity", diversity)
    diversity.write_text("[1")
    assert "has no diversity of every class" in sentence("--diversity", diversity)
    assert "cannot be read" in sentence("--diversity", tmp_path / "none.json")
    assert "may have been cut short" in sentence("--results", tmp_path / "config.yaml")
    assert "must end in .json" in sentence("--output", tmp_path / "table.csv")
    assert "--draws is 1: it must be at least 2" in sentence("--draws", 1)
    assert "did you mean 'digits_lt_val'" in sentence("--balanced", "digits_lt_vla")
