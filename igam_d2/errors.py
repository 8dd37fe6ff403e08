"""The exceptions whose message is shown to a user alone; and the name that may have been meant."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: a key, a file, a checkpoint, a class count, a command line. Its message is one
    sentence: what is wrong, where, and what would be right.
    """


class TransientError(RuntimeError):
    """Something around the run failed, another machine or a disk: trying again may help."""


def closest(name: str, names: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the name most like one that is unknown; "" if none is."""
    close = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
