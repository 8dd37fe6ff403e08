"""The evidence of the benchmark of losses: reading runs, statistics, tables and figures."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from igam_d2.class_statistics import model_bias
from igam_d2.errors import InputError
from igam_d2.files import strict

TESTS = Path(__file__).parent
PATHS = (TESTS.parent / "benchmarks", TESTS / "report")
sys.path[:0] = map(str, PATHS)
import study.class_figures as class_figures  # noqa: E402
import study.drawing as drawing  # noqa: E402
import study.figures as figures  # noqa: E402
import study.stats as es  # noqa: E402
import study.tables as tables  # noqa: E402
from study.cells import method_label, method_labels, small_cell  # noqa: E402
from synthetic import write_dataset, write_run  # noqa: E402

for path in PATHS:
    sys.path.remove(str(path))

READINGS, SHRINKAGES = ("paper", "mean_sqrt", "mean", "ratio"), ("none", "floor", "oas")
GRID = {(r, s): f"igam_{r}_{s}_s20" for r in READINGS for s in SHRINKAGES}
LARGEST = dict(zip(READINGS, (2e-3, 0.02, 0.12, 0.5), strict=True))
SERIES = {
    "cosine CE": {s: f"cosine_ce_s{s}" for s in (10, 20, 30, 40, 50)},
    "IGAM mean, OAS": {s: f"igam_mean_oas_s{s}" for s in (10, 20, 30, 40, 50)},
}
PUBLISHED = {10: {"AP": 16.8, "APr": 0.8}, 20: {"AP": 26.2, "APr": 17.6}, 40: {"AP": 25.9}}
METHODS = ["softmax_ce", "cosine_ce_s20", "igam_mean_none_s20", "igam_ratio_oas_s20", "c2am_s20",
           "seesaw", "eqlv2", "balanced_softmax", "softmax_ce_rfs", "igam_mean_oas_s20_rfs",
           "igam_mean_oas_s20_opposite"]  # fmt: skip


def record(method, seed, *, k=50, gain=0.0, kind="cached", noise=0.5, margins=True):
    """A run on k classes, the first the most frequent; two have no ground truth."""
    rng = np.random.default_rng(0)  # what all runs have in common
    counts = np.maximum(1, 1500 * np.exp(-7.5 * np.arange(k) / k)).round()
    groups = np.where(counts <= 10, "r", np.where(counts <= 100, "c", "f"))
    bits = 25 - 1.8 * np.log(counts) + rng.normal(0, 2.5, k)
    ap = 62 + 4 * np.log(counts) - 1.6 * bits + rng.normal(0, 7, k)
    rng = np.random.default_rng([seed, *method.encode()])
    ap = np.clip(ap + gain * (1 + (groups == "r")) + rng.normal(0, 4, k), 0, 100)
    ap = np.clip(ap + rng.normal(0, noise), 0, 100)
    ap[[7, k - 1]] = np.nan
    bias = model_bias(ap)
    metrics = {"AP": np.nanmean(ap), "bias std": bias["std"], "bias variance": bias["variance"]}
    for key in "rcf":
        metrics[f"AP{key}"] = np.nanmean(ap[groups == key])
    found = None
    if margins and method.startswith("igam"):
        reading = next(r for r in ("mean_sqrt", *READINGS, "") if f"_{r}" in method)
        x = 250 * np.arange(1, 7)
        largest = LARGEST.get(reading, 0.1) * (1 - 0.6 * np.exp(-x / 500)) * rng.normal(1, 0.06, 6)
        sign = -1 if method.endswith("opposite") else 1
        found = es.Margins(x, largest, largest / 5, sign)
    return es.RunRecord(
        kind, method, seed, Path(kind) / method / f"seed{seed}",
        tuple(f"mesh_{i:03}" for i in range(k)), tuple(groups.tolist()),
        {"r": "rare", "c": "common", "f": "frequent"}, np.ceil(counts / 2), counts, ap,
        bits + rng.normal(0, 0.3, k), {n: float(v) for n, v in metrics.items()}, found, 20.0,
    )  # fmt: skip


def benchmark(seeds=(1, 2, 3)):
    gains = {method: 0.7 * (i - 3) for i, method in enumerate(METHODS)}
    for i, method in enumerate(GRID.values()):
        gains[method] = 0.25 * i - 1
    for of in SERIES.values():
        for i, method in enumerate(of.values()):
            gains.setdefault(method, (-12, 0, -0.7, -2, -4)[i])
    gains["cosine_ce_s20"] = 0.0
    return [record(method, seed, gain=gain) for method, gain in gains.items() for seed in seeds]


@pytest.fixture(scope="module")
def records():
    return benchmark()


# --- reading


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), 12, photos=False)


def test_a_run_is_read_as_it_was_evaluated(dataset, tmp_path):
    folder = write_run(tmp_path / "full/igam_mean_oas_s20/seed4", dataset)
    losses = {"NAME": "IGAMLoss", "IGAMLoss": {"SCALE": 25.0}}
    config = {"MODEL": {"ROI_BOX_HEAD": {"CLS_LOSS": losses}}}
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    run = es.load_record(folder, "synthetic_val")
    results = json.loads((folder / "inference/synthetic_val/results.json").read_text())
    assert (run.kind, run.method, run.seed) == ("full", "igam_mean_oas_s20", 4)
    assert run.scale == 25
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
    folder = write_run(tmp_path / "full/igam/seed1", dataset, refreshes=0)
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
    margins = es.load_record(folder, "synthetic_val").margins
    assert margins.iterations.tolist() == [10, 20] and margins.sign == -1
    assert margins.largest.tolist() == pytest.approx([0, 0.4])  # nothing measured: no margins
    assert margins.mean.tolist() == pytest.approx([0, 2 * 0.4 / 6])


def test_runs_that_are_missing_or_not_over(dataset, tmp_path):
    write_run(tmp_path / "full/softmax_ce/seed2", dataset, margins=False)
    (tmp_path / "full/softmax_ce/seed3").mkdir()
    (tmp_path / "full/softmax_ce/seed3/config.yaml").write_text("MODEL: [")
    (tmp_path / "full/softmax_ce/seed3_old").mkdir()
    assert es.load_record(tmp_path / "full/softmax_ce/seed1", "synthetic_val") is None
    assert es.load_record(tmp_path / "full/softmax_ce/seed3", "synthetic_val") is None
    assert es.load_record(tmp_path / "full/softmax_ce/seed2", "synthetic_test") is None
    (run,) = es.load_records(tmp_path, "synthetic_val")
    assert run.margins is None and run.scale is None  # without margins, without config
    with pytest.raises(InputError, match="is not the folder of a run"):
        es.load_record(tmp_path / "full/softmax_ce", "synthetic_val")
    broken = tmp_path / "full/softmax_ce/seed2/inference/synthetic_val/results.json"
    broken.write_text(broken.read_text()[:100])
    with pytest.raises(InputError, match="not whole JSON"):
        es.load_records(tmp_path, "synthetic_val")


def test_runs_of_other_classes_are_refused(dataset, tmp_path):
    write_run(tmp_path / "full/a/seed1", dataset)
    names = [f"other {i}" for i in range(12)]
    other = write_dataset(tmp_path / "data", 12, names=names, photos=False)
    write_run(tmp_path / "full/b/seed1", other)
    with pytest.raises(InputError, match=r"classes of .*b/seed1 are not those of .*a/seed1"):
        es.load_records(tmp_path, "synthetic_val")


def test_kinds_are_not_mixed():
    runs = [record("a", 1, kind="full"), record("a", 1, kind="cached"), record("b", 2)]
    assert [r.kind for r in es.select(runs, "a", "full")] == ["full"]
    with pytest.raises(InputError, match="both of a, seed 1"):
        es.summary(runs[:2])
    with pytest.raises(InputError, match="these are of: a, b"):
        es.summary(runs[1:])


# --- statistics


def test_summary_over_seeds():
    runs = [record("a", seed) for seed in (3, 1, 2)]
    runs[0] = replace(runs[0], metrics={**runs[0].metrics, "APr": math.nan})
    found = es.summary(runs)
    assert found["seeds"] == [1, 2, 3]
    values = [runs[i].metrics["AP"] for i in (1, 2, 0)]
    mean = sum(values) / 3
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / 2)
    assert found["metrics"]["AP"] == {"values": values, "mean": pytest.approx(mean),
                                      "std": pytest.approx(std)}  # fmt: skip
    assert math.isnan(found["metrics"]["APr"]["mean"])
    one = es.summary(runs[:1])["metrics"]["AP"]
    assert one["mean"] == runs[0].metrics["AP"] and math.isnan(one["std"])


def test_partial_spearman_is_the_correlation_of_the_residuals_of_ranks():
    rng = np.random.default_rng(3)
    z = rng.normal(size=60).round(1)  # with ties
    x, y = z + rng.normal(size=60), rng.normal(size=60) - z
    x[4], y[9] = np.nan, np.inf
    known = np.isfinite(x) & np.isfinite(y)
    ranks = [stats.rankdata(v[known]) for v in (x, y, z)]
    residuals = [r - np.polyval(np.polyfit(ranks[2], r, 1), ranks[2]) for r in ranks[:2]]
    r = np.corrcoef(*residuals)[0, 1]
    half = 1.959964 * math.sqrt((1 + r**2 / 2) / (58 - 4))
    wanted = [r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)]
    assert es.partial_spearman(x, y, z) == pytest.approx(wanted, abs=1e-6)


def test_partial_spearman_where_there_is_none():
    x = np.arange(8.0)
    assert np.isnan(es.partial_spearman(x, np.sin(x), x**3)).all()  # the given says all of x
    assert np.isnan(es.partial_spearman(x[:3], x[:3] ** 2, np.ones(3))).all()
    assert np.isnan(es.partial_spearman(x, np.ones(8), np.sin(x))).all()
    assert es.partial_spearman(x, 2 * x, np.sin(x)) == pytest.approx([1, 1, 1])


def test_intervals_of_the_partial_correlation_cover_as_often_as_they_say():
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        z = rng.normal(size=50)
        _, low, high = es.partial_spearman(*(z + rng.normal(size=(2, 50))), z)
        covered += low < 0.012 < high  # of ranks of such normal triples it is not quite zero
    assert 0.92 < covered / 400 < 0.98


def test_correlations_of_means_over_seeds():
    runs = [record("a", seed) for seed in (1, 2)]
    runs[1].information[3] = np.nan  # measured in one of the runs alone
    found = es.correlations(runs)
    ap = (runs[0].class_ap + runs[1].class_ap) / 2
    bits = (runs[0].information + runs[1].information) / 2
    bits[3] = runs[0].information[3]
    count, known = runs[0].instance_count, np.isfinite(ap)
    assert found["num_classes"] == 48 and found["seeds"] == [1, 2]
    pearson, spearman = stats.pearsonr, stats.spearmanr
    for name, x, function in (
        ("pearson_information", bits, pearson),
        ("spearman_information", bits, spearman),
        ("pearson_instance_count", count, pearson),
        ("pearson_log_instance_count", np.log(count), pearson),
        ("spearman_instance_count", np.log(count), spearman),
    ):
        assert found[name][0] == pytest.approx(function(x[known], ap[known]).statistic)
    partial = es.partial_spearman(ap, bits, count)
    assert found["partial_information"] == pytest.approx(partial)
    partial = es.partial_spearman(ap, count, bits)
    assert found["partial_log_instance_count"] == pytest.approx(partial)
    single = [spearman(r.information[known], r.class_ap[known]).statistic for r in runs[:1]]
    assert found["per_seed"]["spearman_information"]["values"][0] == pytest.approx(single[0])
    unknown = [replace(run, information=np.full(50, np.nan)) for run in runs]
    found = es.correlations(unknown)
    assert np.isnan(found["partial_information"]).all()
    assert np.isfinite(found["spearman_instance_count"]).all()


@pytest.mark.parametrize("group", [None, "r"])
def test_paired_difference_against_loops(group):
    ours = [record("a", seed, gain=1.0) for seed in (5, 3, 2, 1)]  # 5 is not paired
    theirs = [record("b", seed) for seed in (1, 2, 3, 4)]
    theirs[0].class_ap[11] = np.nan  # then left out of all
    found = es.paired_difference(ours, theirs, group)
    assert found.seeds == (1, 2, 3)
    chosen = [k for k in range(50) if k not in (7, 11, 49)
              and group in (None, ours[0].class_groups[k])]  # fmt: skip
    assert found.num_classes == len(chosen)
    a, b = ({r.seed: r.class_ap for r in runs} for runs in (ours, theirs))
    values = [sum(a[s][k] - b[s][k] for k in chosen) / len(chosen) for s in (1, 2, 3)]
    assert found.values == pytest.approx(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.std == pytest.approx(np.std(values, ddof=1))
    t = stats.ttest_1samp(values, 0)
    assert found.p_value == pytest.approx(t.pvalue)
    assert found.seed_interval == pytest.approx(tuple(t.confidence_interval(0.95)))

    of_classes = [sum(a[s][k] - b[s][k] for s in (1, 2, 3)) / 3 for k in chosen]
    rng, means = np.random.default_rng(0), []
    for _ in range(es.DRAWS):
        drawn = rng.integers(0, len(chosen), len(chosen))
        means.append(sum(of_classes[i] for i in drawn) / len(chosen))
    means.sort()
    low, high = np.interp([0.025, 0.975], np.linspace(0, 1, es.DRAWS), means)
    assert found.class_interval == pytest.approx((low, high))
    if group is None:  # of many classes it is nearly the normal one
        half = 1.96 * np.std(of_classes) / math.sqrt(len(chosen))
        near = (found.mean - half, found.mean + half)
        assert found.class_interval == pytest.approx(near, abs=0.1 * half)


def test_the_difference_is_that_of_the_metrics(records):
    ours, theirs = es.select(records, "c2am_s20"), es.select(records, "softmax_ce")
    for metric, group in es.GROUPS.items():
        found = es.paired_difference(ours, theirs, group)
        wanted = [a.metrics[metric] - b.metrics[metric] for a, b in zip(ours, theirs, strict=True)]
        assert found.values == pytest.approx(wanted)


def test_beyond_noise_needs_both_intervals():
    def runs(method, gains, noise):
        all_runs = []
        for seed, gain in enumerate(gains):
            run = record("b", 1)
            wave = noise * np.resize([1, -1], 50)
            all_runs.append(replace(run, method=method, seed=seed, class_ap=30 + gain + wave))
        return all_runs

    base = runs("b", [0] * 3, 0)
    for gains, noise, beyond in (
        ([3.0, 3.1, 2.9], 1, True),
        ([-3.0, -3.1, -2.9], 1, True),
        ([3.0, 3.1, 2.9], 30, False),  # among the classes
        ([9.0, 1.0, -1.0], 1, False),  # among the seeds
        ([3.0], 1, False),  # not known
    ):
        found = es.paired_difference(runs("a", gains, noise), base)
        assert found.beyond_noise is beyond, gains
    assert np.isnan(found.seed_interval).all() and math.isnan(found.std)
    assert math.isnan(found.p_value)
    two = es.paired_difference(runs("a", [3.0, 3.1], 1), base)
    assert math.isnan(two.p_value) and two.beyond_noise
    same = es.paired_difference(runs("a", [0] * 3, 0), base)
    assert same.p_value == 1 and same.seed_interval == (0, 0) and not same.beyond_noise


def test_nothing_to_pair():
    assert es.paired_difference([record("a", 1)], [record("b", 2)]) is None
    assert es.paired_difference([record("a", 1)], [record("b", 1)], "no such group") is None
    single = record("a", 1)
    single = replace(single, class_groups=("x", *single.class_groups[1:]))
    found = es.paired_difference([single], [record("b", 1)], "x")
    assert found.num_classes == 1 and np.isnan(found.class_interval).all()
    with pytest.raises(InputError, match="different classes"):
        es.paired_difference([record("a", 1, k=30)], [record("b", 1)])


def test_holm():
    found = es.holm({"a": 0.04, "b": 0.01, "c": math.nan, "d": 0.03})
    assert found == pytest.approx({"a": 0.06, "b": 0.03, "c": math.nan, "d": 0.06}, nan_ok=True)
    assert es.holm({"a": 0.9, "b": 0.8})["b"] == 1


def test_choice_by_the_seeds_that_all_have():
    def run(method, seed, ap):
        made = record(method, seed)
        return replace(made, metrics={**made.metrics, "AP": ap})

    runs = [run("a", 1, 10.0), run("a", 2, 12.0), run("b", 1, 11.0), run("c", 1, 11.0)]
    runs += [run("b", 3, 99.0)]
    assert es.best_method(runs, ["a", "c", "b"]) == "c"  # of equals the first
    with pytest.raises(InputError, match="no evaluated run of d"):
        es.best_method(runs, ["a", "d"])
    with pytest.raises(InputError, match="no seed in common"):
        es.best_method([runs[1], runs[2]], ["a", "b"])
    with pytest.raises(InputError, match="has no AP"):
        es.best_method([run("a", 1, math.nan)], ["a"])


# --- tables


def cells(markdown):
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def check_json(content):
    json.dumps(strict(content), allow_nan=False)


def test_main_table(records):
    page, content = tables.main_table(records, ["softmax_ce", "nothing", "c2am_s20"], "cached")
    rows = cells(page)
    assert rows[0] == ["method", "seeds", "AP", "APr", "APc", "APf", "bias std"]
    values = [run.metrics["AP"] for run in es.select(records, "softmax_ce")]
    cell = f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
    assert rows[2][:3] == ["softmax CE", "3", cell]
    assert rows[3] == ["nothing", "0", *["-"] * 5]
    assert rows[4][0] == "C2AM, s = 20"
    assert content["methods"][0]["metrics"]["bias variance"]["mean"] > 0
    check_json(content)
    page, _ = tables.main_table(records, ["softmax_ce"], "full")
    assert cells(page)[2][1] == "0"


def test_differences_table(records):
    page, content = tables.differences_table(records, [*METHODS, "nothing"], "cosine_ce_s20")
    rows = cells(page)
    assert len(rows) == 2 + len(METHODS)  # without the baseline, with the one without runs
    assert rows[-1] == ["nothing", "0", *["-"] * 4]
    d = es.paired_difference(es.select(records, "c2am_s20"), es.select(records, "cosine_ce_s20"))
    (ours,) = [m for m in content["methods"] if m["method"] == "c2am_s20"]
    assert ours["differences"]["AP"]["class_interval"] == list(d.class_interval)
    assert ours["differences"]["AP"]["beyond_noise"] == d.beyond_noise
    p_values = {m["method"]: m["differences"]["AP"] for m in content["methods"]}
    p_values = {name: of["p_value"] for name, of in p_values.items() if of}
    assert ours["differences"]["AP"]["p_holm"] == es.holm(p_values)["c2am_s20"]
    assert content["num_comparisons"] == 40
    assert "Methods compared with one baseline: 10; comparisons in all: 40." in page
    assert "the 10 comparisons of a column" in page
    text = next(row for row in rows if row[0] == "C2AM, s = 20")[2]
    assert ("**" in text) == d.beyond_noise and text.count("<br>") == 2
    check_json(content)

    one = [run for run in records if run.seed == 1]
    page, content = tables.differences_table(one, METHODS, "cosine_ce_s20")
    assert "**" not in "".join("".join(row) for row in cells(page)) and "no test" in page
    assert cells(page)[2][2].endswith("<br>-")  # no interval over seeds
    check_json(content)
    page, content = tables.differences_table(records, METHODS, "no baseline")
    assert cells(page)[2][2] == "-" and content["num_comparisons"] == 0


def test_correlations_table(records):
    page, content = tables.correlations_table(records, ["softmax_ce", "nothing"])
    rows = cells(page)
    assert rows[3] == ["nothing", "0", "0", *["-"] * 7]
    assert rows[2][1:3] == ["3", "48"] and "<br>" in rows[2][4] and "<br>" not in rows[2][3]
    found = es.correlations(es.select(records, "softmax_ce"))
    assert content["methods"][0]["partial_information"] == found["partial_information"]
    check_json(content)


def test_grid_table(records):
    some = [r for r in records if r.method != "igam_paper_oas_s20"]
    page, content = tables.grid_table(some, GRID, "cosine_ce_s20", "cached")
    rows = cells(page)
    assert rows[0] == ["AP: reading", "none", "floor", "OAS"]
    assert [row[0] for row in rows[2:6]] == ["paper", "mean sqrt", "mean", "ratio"]
    assert rows[2][3] == "-" and rows[6][0] == "APr: reading" and len(rows) == 12
    d = es.paired_difference(
        es.select(records, GRID["ratio", "oas"]), es.select(records, "cosine_ce_s20"), "r"
    )
    assert content["cells"]["ratio"]["oas"]["APr difference"]["mean"] == d.mean
    assert content["cells"]["paper"]["oas"]["AP"] is None and "one baseline: 11." in page
    check_json(content)


def test_margins_table(records):
    page, content = tables.margins_table(records, ["softmax_ce", *GRID.values()])
    rows = cells(page)
    assert rows[2] == ["softmax CE", "0", "-", *["-"] * 6]
    runs = es.select(records, GRID["ratio", "oas"])
    found = content["methods"][-1]
    assert found["last largest"]["values"] == [run.margins.largest[-1] for run in runs]
    assert found["last largest times scale"]["mean"] == pytest.approx(
        20 * found["last largest"]["mean"]
    )
    assert rows[-1][2] == "250 and 1,500" and rows[-1][-2] == "20"
    check_json(content)


def test_sweep_table(records):
    some = [r for r in records if r.method != "cosine_ce_s50"]
    page, content = tables.sweep_table(some, SERIES, PUBLISHED, "Table 2")
    rows = cells(page)
    assert rows[0] == ["s", "cosine CE, AP", "cosine CE, APr", "IGAM mean, OAS, AP",
                       "IGAM mean, OAS, APr", "Table 2, AP", "Table 2, APr"]  # fmt: skip
    assert [row[0] for row in rows[2:]] == ["10", "20", "30", "40", "50"]
    assert rows[6][1] == "-" and rows[5][6] == "-"
    assert rows[2][5] == "16.8 (\N{MINUS SIGN}9.4)" and rows[3][5] == "26.2 (0.0)"
    assert "Table 2 are not ours" in page
    assert "not ours" not in tables.sweep_table(some, SERIES)[0]
    check_json(content)


def test_names_of_methods():
    for method, label in {
        "softmax_ce_rfs": "softmax CE, RFS",
        "cosine_ce_s20": "cosine CE, s = 20",
        "cosine_ce": "cosine CE",
        "igam_mean_sqrt_oas": "IGAM mean sqrt, OAS",
        "igam_mean_none_s20_opposite": "IGAM mean, no shrinkage, s = 20, opposite sign",
        "igam_opposite": "IGAM, opposite sign",
        "igam_s50": "IGAM, s = 50",
        "my_loss": "my_loss",
    }.items():
        assert method_label(method) == label
    one = method_labels(["softmax_ce", "cosine_ce_s20", "igam_mean_oas_s20"])
    assert list(one.values()) == ["softmax CE", "cosine CE", "IGAM mean, OAS"]
    assert method_labels(["cosine_ce_s20", "igam_s30"])["igam_s30"] == "IGAM, s = 30"


@pytest.mark.parametrize(
    "mean, std, text",
    [
        (0.00131, 6.2e-5, "0.00131 ± 0.00006"),
        (2.4, 0.23, "2.40 ± 0.23"),
        (123.4, 2.0, "123 ± 2"),
        (0.0, 0.0, "0.0 ± 0.0"),
        (0.02, math.nan, "0.0200"),
        (math.nan, math.nan, "-"),
    ],
)
def test_small_numbers_have_three_digits(mean, std, text):
    assert small_cell({"mean": mean, "std": std}) == text


# --- figures


def draw_all(records):
    return [
        figures.differences_figure(records, METHODS, "cosine_ce_s20", "cached"),
        figures.sweep_figure(records, SERIES),
        figures.grid_figure(records, GRID, "cosine_ce_s20"),
        class_figures.ap_figure(records, "cosine_ce_s20", name="ap"),
        class_figures.margins_figure(records, GRID),
    ]


@pytest.mark.parametrize("seeds", [(1,), (1, 2), (1, 2, 3)])
def test_figures_are_written(seeds, records, tmp_path):
    some = [r for r in records if r.seed in seeds and r.method != "igam_paper_oas_s20"]
    for figure in draw_all(some):
        path = drawing.save(figure, tmp_path / "figures")
        assert path.stat().st_size > 20_000 and figure.caption and figure.alt
        with Image.open(path) as image:
            assert image.width == 1200 and 300 < image.height < 1200
            assert len(image.convert("L").getcolors()) > 20
    assert len(list((tmp_path / "figures").iterdir())) == 5


def test_figures_of_runs_that_lack_something(tmp_path):
    bare = replace(record("a", 1), groups={}, class_groups=(None,) * 50)
    bare = replace(bare, information=np.full(50, np.nan), instance_count=np.zeros(50))
    drawing.save(class_figures.ap_figure([bare], "a"), tmp_path)
    assert (tmp_path / "ap_a.png").is_file()
    run = record("igam_mean_none_s20", 1)
    zero = replace(run, margins=es.Margins(np.array([250]), np.zeros(1), np.zeros(1), 1))
    # At the first refresh none, and not the same number of refreshes
    late = es.Margins(np.array([250, 500, 750]), np.array([0, 0.1, 0.2]), np.full(3, 0.01), 1)
    late = [replace(run, margins=late), record("igam_mean_none_s20", 2)]
    assert drawing.save(class_figures.margins_figure(late, GRID), tmp_path).is_file()
    for draw in (
        lambda: figures.differences_figure([], METHODS, "cosine_ce_s20"),
        lambda: figures.sweep_figure([], SERIES),
        lambda: figures.grid_figure([], GRID, "cosine_ce_s20"),
        lambda: class_figures.ap_figure([], "a"),
        lambda: class_figures.margins_figure([replace(run, margins=None)], GRID),
        lambda: class_figures.margins_figure([zero], GRID),
    ):
        with pytest.raises(InputError, match="no evaluated runs of"):
            draw()
