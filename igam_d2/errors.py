"""The exceptions whose message a user is shown alone, without a traceback."""


class InputError(ValueError):
    """Bad input: a key, a file, a checkpoint, a class count, a command line. Its message is one
    sentence: what is wrong, where, and what would be right.
    """


class UnreachableError(RuntimeError):
    """Machines of a run did not find each other. Unlike bad input, trying again may help."""
