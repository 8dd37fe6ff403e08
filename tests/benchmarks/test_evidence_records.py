"""The evidence of the benchmark of losses: how runs are read."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from evidence_runs import record, records, stats, synthetic

from igam_d2.errors import InputError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return synthetic.write_dataset(tmp_path_factory.mktemp("data"), 12, photos=False)


def test_a_run_is_read_as_it_was_evaluated(dataset, tmp_path):
    folder = synthetic.write_run(tmp_path / "full/igam_mean_oas_s20/seed4", dataset)
    losses = {"NAME": "IGAMLoss", "IGAMLoss": {"SCALE": 25.0}}
    config = {"MODEL": {"ROI_BOX_HEAD": {"CLS_LOSS": losses}, "IGAM": {"SHRINKAGE": "oas"}}}
    config["SOLVER"] = {"MAX_ITER": 7000}
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    run = records.load_record(folder, "synthetic_val")
    results = json.loads((folder / "inference/synthetic_val/results.json").read_text())
    assert (run.kind, run.method, run.seed) == ("full", "igam_mean_oas_s20", 4)
    assert (run.scale, run.shrinkage, run.max_iter) == (25, "oas", 7000)
    classes = results["classes"]
    assert run.class_names == tuple(c["name"] for c in classes)
    assert run.class_groups == tuple(c["group"] for c in classes)
    assert run.groups == {"r": "rare", "c": "common", "f": "frequent"}
    for name in ("image_count", "instance_count", "information"):
        assert getattr(run, name).tolist() == [c[name] for c in classes]
    wanted = [math.nan if c["AP"]["bbox"] is None else c["AP"]["bbox"] for c in classes]
    np.testing.assert_array_equal(run.class_ap, wanted)
    assert np.isnan(run.class_ap).sum() == 1
    assert run.metrics["APr"] == results["metrics"]["bbox"]["APr"]
    rare = [c["AP"]["bbox"] for c in classes if c["group"] == "r" and c["instance_count"] > 1]
    rare = [ap for ap in rare if ap is not None]
    assert run.metrics["APr2"] == pytest.approx(sum(rare) / len(rare))
    assert run.metrics["bias std"] == results["bias"]["bbox"]["std"]
    assert run.metrics["bias variance"] == pytest.approx(run.metrics["bias std"] ** 2)

    lines = (folder / "information.jsonl").read_text().splitlines()[:-1]  # the last is cut off
    for i, line in enumerate(map(json.loads, lines)):
        u = [v for v in line["potentials"] if v is not None]  # the first class has none
        pairs = [max(0, a - b) for m, a in enumerate(u) for n, b in enumerate(u) if m != n]
        assert run.margins.iterations[i] == line["iteration"]
        assert run.margins.largest[i] == pytest.approx(max(pairs))
        assert run.margins.mean[i] == pytest.approx(sum(pairs) / len(pairs))
    assert len(run.margins.largest) == len(lines) == 8 and run.margins.sign == 1


def test_after_resuming_the_later_line_counts_and_of_a_cascade_the_last_stage(dataset, tmp_path):
    folder = synthetic.write_run(tmp_path / "full/igam/seed1", dataset, refreshes=0)
    rest = [None] * 9

    def line(iteration, u, stage, sign=1):
        content = {"iteration": iteration, "predictor": f"box_predictor.{stage}"}
        content |= {"information": u, "potentials": u, "margin_sign": sign}
        return json.dumps(content) + "\n"

    (folder / "information.jsonl").write_text(
        line(10, [None] * 12, 10)
        + line(20, [0.1, 0.2, 0.3, *rest], 10)
        + line(20, [0.0, 9.0, 0.0, *rest], 9)
        + line(20, [0.1, 0.5, 0.1, *rest], 10, -1)
    )
    margins = records.load_record(folder, "synthetic_val").margins
    assert margins.iterations.tolist() == [10, 20] and margins.sign == -1
    assert margins.largest.tolist() == pytest.approx([0, 0.4])  # nothing measured: no margins
    assert margins.mean.tolist() == pytest.approx([0, 2 * 0.4 / 6])


def test_margins_of_the_last_iteration_are_never_used():
    run = record("igam_mean_none_s20", 1)  # refreshed every 250 of 1,500 iterations
    used = run.used_margins
    assert run.margins.iterations[-1] == run.max_iter == 1500
    assert used.iterations.tolist() == [250, 500, 750, 1000, 1250]
    assert used.largest.tolist() == run.margins.largest[:-1].tolist()
    assert used.mean.tolist() == run.margins.mean[:-1].tolist() and used.sign == 1
    assert replace(run, max_iter=1501).used_margins.iterations[-1] == 1500
    assert replace(run, max_iter=None).used_margins is run.margins
    assert replace(run, max_iter=250).used_margins is None


def test_the_classes_of_a_metric():
    run = record("a", 1)
    for metric in records.CLASS_METRICS:
        chosen = records.metric_classes(run, metric)
        wanted = [
            metric == "AP" or (key == metric[2] and (metric != "APr2" or count >= 2))
            for key, count in zip(run.class_groups, run.instance_count, strict=True)
        ]
        assert chosen.tolist() == wanted
        assert np.nanmean(run.class_ap[chosen]) == pytest.approx(run.metrics[metric])
    rare = records.metric_classes(run, "APr")
    assert records.metric_classes(run, "APr2").sum() == rare.sum() - 3  # those of one instance


def test_runs_that_are_missing_or_not_over(dataset, tmp_path):
    synthetic.write_run(tmp_path / "full/softmax_ce/seed2", dataset, margins=False)
    (tmp_path / "full/softmax_ce/seed3").mkdir()
    (tmp_path / "full/softmax_ce/seed3/config.yaml").write_text("MODEL: [")
    (tmp_path / "full/softmax_ce/seed3_old").mkdir()
    assert records.load_record(tmp_path / "full/softmax_ce/seed1", "synthetic_val") is None
    assert records.load_record(tmp_path / "full/softmax_ce/seed3", "synthetic_val") is None
    assert records.load_record(tmp_path / "full/softmax_ce/seed2", "synthetic_test") is None
    (run,) = records.load_records(tmp_path, "synthetic_val")
    assert run.margins is None and run.scale is None  # without margins, without config
    assert run.shrinkage is None and run.max_iter is None and run.used_margins is None
    with pytest.raises(InputError, match="is not the folder of a run"):
        records.load_record(tmp_path / "full/softmax_ce", "synthetic_val")
    broken = tmp_path / "full/softmax_ce/seed2/inference/synthetic_val/results.json"
    broken.write_text(broken.read_text()[:100])
    with pytest.raises(InputError, match="not whole JSON"):
        records.load_records(tmp_path, "synthetic_val")


def test_runs_of_other_classes_are_refused(dataset, tmp_path):
    synthetic.write_run(tmp_path / "full/a/seed1", dataset)
    names = [f"other {i}" for i in range(12)]
    other = synthetic.write_dataset(tmp_path / "data", 12, names=names, photos=False)
    synthetic.write_run(tmp_path / "full/b/seed1", other)
    with pytest.raises(InputError, match=r"classes of .*b/seed1 are not those of .*a/seed1"):
        records.load_records(tmp_path, "synthetic_val")


def test_kinds_are_not_mixed():
    runs = [record("a", 1, kind="full"), record("a", 1, kind="cached"), record("b", 2)]
    assert [r.kind for r in records.select(runs, "a", "full")] == ["full"]
    with pytest.raises(InputError, match="both of a, seed 1"):
        stats.summary(runs[:2])
    with pytest.raises(InputError, match="these are of: a, b"):
        stats.summary(runs[1:])
