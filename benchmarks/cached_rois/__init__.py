"""RoI features of a common detector, kept on disk, and second stages that are trained on them."""
