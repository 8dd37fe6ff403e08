"""The simulation that compares estimates of information at equal truth."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igam_d2.functional import SHRINKAGES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = {"embedding_dim": 12, "counts": [2, 12, 4000], "draws": 6, "num_classes": 40}


@pytest.fixture
def bias(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import estimator_bias

    yield estimator_bias
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_every_spectrum_has_the_information_that_is_asked_for(bias):
    for name in bias.SPECTRA:
        for dim, bits in ((2, 0.01), (128, 21.1), (128, 500.0)):
            (spectrum,) = bias.scaled(bias._spectrum(name, dim), np.array([bits]))
            assert np.log2(1 + spectrum).sum() / 2 == pytest.approx(bits, rel=1e-9)
            assert (np.diff(spectrum) <= 0).all()
    two = bias.scaled(bias._spectrum("steep", 8), np.array([3.0, 9.0]))
    assert (np.log2(1 + two).sum(1) / 2).tolist() == pytest.approx([3, 9])


def test_covariances_are_those_of_samples(bias, monkeypatch):
    monkeypatch.setattr(bias, "BLOCK", 3)
    found = bias._unit_covariances(np.random.default_rng(1), [7, 2], 4)
    rng = np.random.default_rng(1)
    for covariance, n in zip(found, (7, 2), strict=True):
        sizes = [3] * (n // 3) + [n % 3]
        x = np.concatenate([rng.standard_normal((size, 4)) for size in sizes])
        assert covariance == pytest.approx(np.cov(x.T, bias=True))


def test_estimates_at_equal_truth(bias):
    result = bias.simulate(**SMALL, information=5.0, populations=2)
    assert list(result["spectra"]) == ["flat", "decaying", "steep"]
    for spectrum in result["spectra"].values():
        found = spectrum["estimates"]
        assert list(found) == list(SHRINKAGES)
        for key, estimate in found.items():
            assert [b + 5 for b in estimate["bias"]] == pytest.approx(estimate["mean"])
            if key != "floor":  # many embeddings: all that are sound agree with the truth
                assert abs(estimate["bias"][2]) < 0.15 and estimate["std"][2] < 0.2
        assert found["none"]["bias"][0] < -2 < 0.1 < found["floor"]["bias"][0]
    flat = result["spectra"]["flat"]
    assert flat["largest"] == pytest.approx(flat["smallest"])
    assert abs(flat["estimates"]["oas"]["bias"][1]) < 1  # what it shrinks to is the truth
    again = bias.simulate(**SMALL, information=5.0, populations=2)
    assert again == result
    json.dumps(result, allow_nan=False)


def test_estimates_over_populations(bias):
    result = bias.simulate(**SMALL | {"counts": [2], "embedding_dim": 60}, populations=3)[
        "population"
    ]
    assert list(result["spearman"]) == ["flat", "decaying", "steep", "mixed"]
    for of in result["spearman"].values():
        assert list(of) == [*SHRINKAGES, "truth"]
        assert of["truth"]["information"]["values"] == pytest.approx([1.0] * 3)
        assert abs(of["truth"]["count"]["mean"]) < 0.4  # nothing to do with each other
        for entry in of.values():
            for found in entry.values():
                assert len(found["values"]) == 3
                assert found["mean"] == pytest.approx(np.mean(found["values"]))
                assert found["std"] == pytest.approx(np.std(found["values"], ddof=1))
        assert of["oas"]["information"]["mean"] > 0.8 > of["floor"]["information"]["mean"]


def test_files_of_the_command(bias, tmp_path, capsys):
    options = "--embedding-dim 6 --information 4 --counts 20 5 5 --draws 2 --classes 9"
    bias.main([*options.split(), "--populations", "2", "--output", str(tmp_path / "new")])
    page = (tmp_path / "new" / "table.md").read_text()
    assert capsys.readouterr().out == page + "\n"
    result = json.loads((tmp_path / "new" / "table.json").read_text())
    assert result["counts"] == [5, 20] and result["information"] == 4
    assert "4.0 bits in truth, D = 6" in page and page == bias.markdown(result)
    found = result["spectra"]["steep"]["estimates"]["oas"]
    row = next(line for line in page.split("Steep")[1].splitlines() if line.startswith("| 20 "))
    mean, std, difference = (found[key][1] for key in ("mean", "std", "bias"))
    assert row.split("|")[4].strip() == f"{mean:.1f} ± {std:.1f} ({difference:+.1f})"
    assert bias.figure(result, tmp_path / "again.png") == tmp_path / "again.png"
    result["population"]["spearman"]["flat"]["oas"]["count"]["mean"] = -1e-9
    found["bias"] = [-1e-9] * 2
    page = bias.markdown(result)
    assert "(+0.0)" in page and " 0.00 ± " in page
    with Image.open(tmp_path / "new" / "bias.png") as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(image.width * image.height)) > 50


@pytest.mark.parametrize(
    "options, sentence",
    [
        ("--counts 1 5", "--counts is 1: it must be at least 2"),
        ("--embedding-dim 1", "--embedding-dim is 1"),
        ("--draws 1", "--draws is 1"),
        ("--information 0", "--information is 0.0: it must be positive"),
        ("--populations 1", "--populations is 1"),
    ],
)
def test_mistakes_end_in_a_sentence(bias, options, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        bias.main([*options.split(), "--output", str(tmp_path)])
    captured = capsys.readouterr()
    assert end.value.code == 2 and captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith(f"error: {sentence}")
