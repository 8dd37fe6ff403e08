"""Drawing classes equally often, and samplers by name."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from igam_d2.data import BatchStream, ClassAwareTrainingSampler, build_train_loader
from igam_d2.errors import InputError

# Classes of each image; class 9 has crowd regions alone, and image 4 is drawn by nobody
IMAGES = [[0], [0, 0, 1], [0], [0, 5], [9], [0, 1], [0]]


def records(images=IMAGES) -> list[dict]:
    return [
        {
            "file_name": str(i),
            "width": 4,
            "height": 3,
            "annotations": [{"category_id": k, "iscrowd": int(k == 9)} for k in classes],
        }
        for i, classes in enumerate(images)
    ]


def draws(seed: int, number: int) -> list[int]:
    images = ClassAwareTrainingSampler.images_of_classes(records())
    return list(islice(ClassAwareTrainingSampler(images, seed=seed)._infinite_indices(), number))


def test_images_are_drawn_as_often_as_their_classes_say():
    of_class = {k: [i for i, classes in enumerate(IMAGES) if k in classes] for k in (0, 1, 5)}
    expected = [
        sum((i in images) / len(images) for images in of_class.values()) / 3 for i in range(7)
    ]
    number = 90_000
    counts = Counter(draws(3, number))
    for i, share in enumerate(expected):
        deviation = (share * (1 - share) / number) ** 0.5
        assert abs(counts[i] / number - share) <= 4 * deviation, (i, counts[i] / number, share)
    assert counts[4] == 0 and counts[3] > counts[0]


def test_a_seed_says_what_is_drawn():
    assert draws(3, 3000) == draws(3, 3000) != draws(4, 3000)


def test_goes_on_where_it_was(cfg):
    cfg.DATALOADER.SAMPLER_TRAIN = "ClassAwareTrainingSampler"

    def stream(state=None) -> BatchStream:
        np.random.seed(5)
        loader = build_train_loader(cfg, records())
        assert loader.epoch_length == 2  # 7 images in batches of 4
        if state is not None:
            loader.batch_sampler.load_state_dict(state)
        return loader.batch_sampler

    whole = list(islice(stream(), 600))
    assert all(index != 4 for batch in whole for index in batch)
    first = stream()
    assert list(islice(stream(first.state_dict(500)), 100)) == whole[500:]


def test_what_cannot_be_drawn(cfg):
    cfg.DATALOADER.SAMPLER_TRAIN = "ClassAwareTrainingSampler"
    for images in ([[], []], [[9]]):
        with pytest.raises(InputError, match="no annotation whose class could be drawn"):
            build_train_loader(cfg, records(images))
    cfg.DATALOADER.SAMPLER_TRAIN = "ClassAwareSampler"
    with pytest.raises(InputError, match=r"mean 'ClassAwareTrainingSampler'.*one of: Train"):
        build_train_loader(cfg, records())
