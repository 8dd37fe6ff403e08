"""The exceptions whose message a user is shown alone, without a traceback."""


class InputError(ValueError):
    """Bad input: a key, a file, a checkpoint, a class count, a command line. Its message is one
    sentence: what is wrong, where, and what would be right.
    """


class TransientError(RuntimeError):
    """Something around the run failed, another machine or a disk: trying again may help."""
