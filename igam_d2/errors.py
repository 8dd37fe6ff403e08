"""The exceptions whose message is shown to a user alone, how a command ends with them, and the name
that may have been meant.
"""

import contextlib
import difflib
import sys
from collections.abc import Iterable, Iterator


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


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends a command with the message of such an exception alone, on stderr.

    The exit status is 2 after bad input, as for an option that the parser refuses, where trying
    again does not help; and 1 after what may pass.
    """
    try:
        yield
    except (InputError, TransientError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)


def os_reason(error: OSError) -> str:
    """Why a file could not be written, in a few words."""
    if isinstance(error, (FileExistsError, NotADirectoryError)):  # a folder that cannot be made
        return "a part of the path is a file"
    return error.strerror or str(error)


def closest(name: str, names: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the name most like one that is unknown; "" if none is."""
    by_lower = {known.lower(): known for known in names}
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
    return f" (did you mean {by_lower[close[0]]!r}?)" if close else ""
