"""The exceptions whose message is shown to a user alone; and the name that may have been meant."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: a key, a file, a checkpoint, a class count, a command line. Its message is one
    sentence: what is wrong, where, and what would be right.
    """

    def __init__(self, message: str = ""):
        # Of one that a worker of a loader raised, torch makes another with a traceback around it
        name = f"{type(self).__module__}.{type(self).__qualname__}: "
        super().__init__(str(message).rsplit(name, 1)[-1].strip())


class TransientError(RuntimeError):
    """Something around the run failed, another machine or a disk: trying again may help."""


def closest(name: str, names: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the name most like one that is unknown; "" if none is."""
    close = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
