"""What evidence.py counts of what is in its folder: runs, caches and choices."""

import json
from types import SimpleNamespace

import pytest
import yaml
from tiny_evidence import aged, leave, results_of

from igam_d2.errors import InputError


def test_what_counts_as_done(experiment):
    from study.plan import FULL, softmax_ce

    def run():
        return experiment().run(FULL, softmax_ce(), 1)

    first = run()
    assert first.result is None and not first.begun()
    leave(first, test=None)
    assert run().result is None and run().begun()
    leave(first, selection=None)
    assert run().result is None
    leave(first)
    assert run().result == {"selection": 1.0, "test": 2.0}
    aged(60, results_of(first.folder, "digits_test"))  # of another training
    assert run().result is None
    leave(first)
    first.model.unlink()
    assert run().result is None


def test_another_machine_may_go_on(experiment):
    from study.plan import FULL, softmax_ce

    run = experiment().run(FULL, softmax_ce(), 1)
    leave(run)
    content = yaml.safe_load((run.folder / "config.yaml").read_text())
    content["MODEL"]["DEVICE"], content["OUTPUT_DIR"] = "cuda", "/elsewhere"
    content["DATALOADER"]["NUM_WORKERS"] = 7
    (run.folder / "config.yaml").write_text(yaml.safe_dump(content))
    assert experiment().run(FULL, softmax_ce(), 1).result is not None
    content["SOLVER"]["BASE_LR"] = 0.02
    (run.folder / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"was run with SOLVER.BASE_LR 0.02, which is now 0.01"):
        experiment().run(FULL, softmax_ce(), 1)


def test_a_cache_must_be_of_its_detector(experiment, monkeypatch):
    import run_queue
    import study.jobs
    from study.plan import CACHED, FULL, cosine_ce, softmax_ce

    def run(**changed):
        return experiment(**changed).run(CACHED, cosine_ce(20), 1)

    def write_cache(age=30, **changed):
        content = {"passes": 1, "seed": 1, "sha256": study.jobs.digest_of(detector.model)}
        cache.file.parent.mkdir(parents=True, exist_ok=True)
        cache.file.write_text(json.dumps(content | changed))
        aged(age, cache.file)

    detector = experiment().run(FULL, softmax_ce(), 1)
    leave(detector, age=60)
    cache = run().cache
    assert cache.result is None and run().needs[0].result is not None
    write_cache()
    assert run().cache.result and run().result is None
    leave(run())
    assert run().result == {"selection": 1.0, "test": 2.0} and run().begun()

    # It was made anew since: the run is trained from the beginning
    commands = []
    monkeypatch.setattr(run_queue.Job, "start", lambda job, _: commands.append(job.command))
    run().start({})
    write_cache(age=-30)
    assert run().result is None and not run().begun()
    run().start({})
    assert ["--resume" in command for command in commands] == [True, False]
    cache.file.unlink()
    assert run().result is None and not run().begun()

    for changed, words in (
        ({"passes": 2}, "was made with passes 2, which is now 1: choose another --output, or"),
        ({"seed": 3}, "was made with seed 3, which is now 1: choose another --output, or"),
        ({"sha256": "0"}, "is of another detector than .*/full/softmax_ce/seed1/model_final.pth: "),
    ):
        write_cache(**changed)
        with pytest.raises(InputError, match=words):
            run()
    write_cache()
    digests = []
    monkeypatch.setattr(study.jobs, "digest_of", lambda path: digests.append(path) or "other")
    run(), run()
    assert not digests  # known: the file is the same
    leave(detector, age=50)
    for _ in range(2):
        with pytest.raises(InputError, match="another detector"):
            run()
    assert len(digests) == 1
    detector.model.unlink()
    with pytest.raises(InputError, match="another detector"):
        run()


def test_a_choice_is_made_by_the_selection_split_once(evidence, output, capsys):
    from study.choices import Choices
    from study.plan import Choice, Step, cosine_ce

    candidates = {Choice(scale): cosine_ce(scale) for scale in (10, 20, 30)}
    step = Step("the scale", (), candidates)
    aps = {}  # (scale, seed) -> AP on the selection split, None for a failure, or missing

    def run(kind, method, seed):
        assert kind == "cached"
        place = int(method.name.rpartition("_s")[2]), seed
        ap = aps.get(place)
        result = None if ap is None else {"selection": ap, "test": 100 - ap}
        problem = "no" if place in aps and ap is None else None
        return SimpleNamespace(result=result, problem=problem, over=place in aps)

    def choose(seeds, file=output / "choices.json"):
        choices = Choices(file)
        chosen = choices.choose(step, Choice(), SimpleNamespace(seeds=seeds, run=run))
        choices.write()
        return chosen, capsys.readouterr().out

    aps |= {(10, 1): 1.0, (10, 2): 4.0, (20, 1): 3.0, (20, 2): 3.0, (30, 1): 9.0}
    assert choose([1, 2]) == (Choice(), "Nothing is chosen yet: cosine_ce_s30 is not done.\n")
    aps[30, 2] = None
    chosen, said = choose([1, 2])
    assert chosen == Choice(20) and said.endswith("s = 10 2.50, s = 20 3.00. Chosen: s = 20\n")
    written = json.loads((output / "choices.json").read_text())
    assert written["scale"] == 20
    assert written["steps"]["the scale"] == {
        "chosen": "s = 20",
        "seeds": [1, 2],
        "AP": {"s = 10": 2.5, "s = 20": 3.0},
        "failed": ["s = 30"],
    }

    # Once made it is kept, with fewer runs or with more, and whoever would be chosen now
    assert choose([1, 2, 3]) == (Choice(20), "")
    aps |= {(10, 3): 9.0, (20, 3): 1.0, (30, 3): 1.0}
    chosen, said = choose([1, 2, 3])
    assert chosen == Choice(20) and said.count("\n") == 1
    assert "now s = 10 4.67, s = 20 2.33, but s = 20 was chosen before and is kept: delete" in said
    assert json.loads((output / "choices.json").read_text()) == written
    assert choose([1, 2, 3], output / "anew.json")[0] == Choice(10)
    aps |= dict.fromkeys(aps)
    assert choose([1, 2], output / "failed.json") == (
        Choice(),
        "Nothing can be chosen: runs of all candidates failed.\n",
    )
    # One without the record of how, of an older version
    (output / "old.json").write_text('{"scale": 30, "reading": "mean", "shrinkage": "none"}')
    assert choose([7], output / "old.json") == (Choice(30), "")
    (output / "old.json").write_text("[]")
    with pytest.raises(InputError, match="is not a file of choices"):
        choose([7], output / "old.json")
