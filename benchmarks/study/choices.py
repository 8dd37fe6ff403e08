"""What was chosen on the selection split, kept: later starts go on with it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from igam_d2.errors import InputError
from igam_d2.files import write_json
from study.jobs import read_json
from study.plan import CACHED, Choice, Step
from study.runs import Experiment

__all__ = ["Choices"]


class Choices:
    """The file choices.json, which decides as soon as a choice is made; delete it to choose anew.

    It has the last :class:`Choice`, and for each step with candidates the seeds, the candidates'
    mean AP on the selection split when it was made, and those that failed.
    """

    def __init__(self, file: Path):
        """
        Raises:
            InputError: it cannot be read.
        """
        self.file = file
        content = {} if (found := read_json(file)) is None else found
        try:
            self.made = Choice(**{key: content.get(key) for key in asdict(Choice())})
            self._steps: dict[str, Any] = dict(content.get("steps", {}))
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f"{file} is not a file of choices: delete it.") from error

    def write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.file, {**asdict(self.made), "steps": self._steps})

    def choose(self, step: Step, before: Choice, experiment: Experiment) -> Choice:
        """What was chosen of a step's candidates, or else that with the highest mean AP on the
        selection split; `before` until all seeds of all candidates are over.

        A candidate of which a run failed is not chosen.
        """
        kept = next((c for c in step.candidates if _is_part(c, self.made)), None)
        means, failed = {}, []
        for candidate, method in step.candidates.items():
            runs = [experiment.run(CACHED, method, seed) for seed in experiment.seeds]
            if not all(run.over for run in runs):
                if kept is None:
                    print(f"Nothing is chosen yet: {method.name} is not done.", flush=True)
                return kept or before
            if any(run.problem for run in runs):
                failed.append(str(candidate))
            else:
                means[candidate] = sum(run.result["selection"] for run in runs) / len(runs)
        if not means:
            if kept is None:
                print("Nothing can be chosen: runs of all candidates failed.", flush=True)
            return kept or before
        best = max(means, key=means.get)
        values = ", ".join(f"{candidate} {ap:.2f}" for candidate, ap in means.items())
        if kept is not None and kept != best:
            print(
                f"AP on the selection split is now {values}, but {kept} was chosen before and is "
                f"kept: delete {self.file} to choose anew.",
                flush=True,
            )
            return kept
        print(f"AP on the selection split: {values}. Chosen: {best}", flush=True)
        if kept is None:
            self.made = best
        if kept is None or step.title not in self._steps:
            self._steps[step.title] = {
                "chosen": str(best),
                "seeds": experiment.seeds,
                "AP": {str(candidate): ap for candidate, ap in means.items()},
                "failed": failed,
            }
        return best


def _is_part(choice: Choice, made: Choice) -> bool:
    """Whether it was made on the way there."""
    of_made = asdict(made)
    return all(value in (None, of_made[key]) for key, value in asdict(choice).items())
