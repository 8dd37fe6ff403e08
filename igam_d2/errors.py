"""The one exception for what a user can put right: a key, a file, a checkpoint, a class count."""


class InputError(ValueError):
    """Bad input. Its message is one sentence: what is wrong, where, and what would be right."""
