"""RoI features of a common detector, kept on disk, and second stages that are trained on them.

train_cached.py says what such a training can show, and what it cannot.
"""
