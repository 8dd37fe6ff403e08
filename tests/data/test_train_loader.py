"""The stream of batches: every image as often, in the same order, from any position on."""

from collections import Counter
from itertools import chain, islice

import numpy as np
import pytest
from detectron2.data.datasets import load_lvis_json
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm

from igam_d2.data import BatchStream, build_train_loader
from igam_d2.errors import InputError


def stream(size=10, batch_size=4, **kwargs) -> BatchStream:
    np.random.seed(3)
    return BatchStream(lambda seed: TrainingSampler(size, seed=seed), batch_size, **kwargs)


def take(batches, number: int) -> list[list[int]]:
    return list(islice(batches, number))


def joined(lists) -> list:
    return list(chain.from_iterable(lists))


def test_every_image_once_an_epoch():
    indices = joined(take(stream(), 25))
    assert [Counter(indices[i : i + 10]) for i in range(0, 100, 10)] == [Counter(range(10))] * 10
    assert indices[:10] != indices[10:20]


@pytest.mark.parametrize("groups", [None, [0, 1, 1, 0, 1, 1, 0, 1, 1, 1]])
@pytest.mark.parametrize("stops", [[1], [3, 4], [7, 1, 12]])
def test_goes_on_where_it_was_with_any_number_of_processes(groups, stops, monkeypatch):
    whole = take(stream(groups=groups), sum(stops) + 5)
    if groups:
        assert all(len({groups[index] for index in batch}) == 1 for batch in whole)
    state, position = None, 0
    for part, number in enumerate([*stops, 5]):
        processes = (1, 2, 4)[part % 3]
        monkeypatch.setattr(comm, "get_world_size", lambda n=processes: n)
        monkeypatch.setattr(comm, "shared_random_seed", lambda: 17)  # of the new run, not used
        shares = []
        for rank in range(processes):
            monkeypatch.setattr(comm, "get_rank", lambda r=rank: r)
            one = stream(groups=groups)
            if state is None:
                one._seed = stream_seed()
            else:
                one.load_state_dict(state)
            shares.append(take(one, number))
        batches = [joined(parts) for parts in zip(*shares, strict=True)]
        assert batches == whole[position : position + number]
        position += number
        state = one.state_dict(number)


def stream_seed() -> int:
    np.random.seed(3)
    return np.random.randint(2**31)


def test_another_batch_size_goes_on_within_a_batch():
    first = stream(batch_size=4)
    state = first.state_dict(7)  # 28 images
    second = stream(batch_size=5)
    second.load_state_dict(state)
    assert take(second, 3) == take(stream(batch_size=5), 8)[5:]
    assert second.state_dict(0)["num_images"] == 25  # three of them once more


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_with_workers_and_augmentation_gives_every_image_as_often(cfg, digits_root, workers):
    folder = digits_root / "digits_lt"
    annotations = str(folder / "annotations/digits_lt_train.json")
    records = load_lvis_json(annotations, f"{folder}/")
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    cfg.DATALOADER.NUM_WORKERS = workers

    def batches(loader, number):
        return [[r["file_name"] for r in batch] for batch in islice(iter(loader), number)]

    np.random.seed(5)
    whole = batches(build_train_loader(cfg, records), 18)
    np.random.seed(5)
    first = build_train_loader(cfg, records)
    assert first.epoch_length == 6
    seen = batches(first, 8)
    second = build_train_loader(cfg, records)
    second.batch_sampler.load_state_dict(first.batch_sampler.state_dict(8))
    seen += batches(second, 10)
    assert seen == whole
    assert set(Counter(joined(seen)).values()) == {3}


def test_repeat_factors_and_what_is_not_known(cfg):
    records = [
        {"annotations": [{"category_id": int(i == 0)}], "width": 4, "height": 3} for i in range(8)
    ]
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 2.0
    loader = build_train_loader(cfg, records)
    counts = Counter(joined(take(loader.batch_sampler, 60)))
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, 2.0)
    share = (factors / factors.sum()).tolist()
    assert all(abs(counts[i] / 240 - share[i]) < 0.05 for i in range(8)) and share[0] > share[1]
    cfg.DATALOADER.SAMPLER_TRAIN = "Weighted"
    with pytest.raises(InputError, match="'Weighted'; it must be one of: TrainingSampler, Repeat"):
        build_train_loader(cfg, records)


def test_batches_that_cannot_be_shared(monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    monkeypatch.setattr(comm, "shared_random_seed", lambda: 0)
    for batch_size in (4, 0):
        with pytest.raises(InputError, match=f"IMS_PER_BATCH is {batch_size}.* which is 3"):
            stream(batch_size=batch_size)
