"""Running moments against float64 statistics of everything; the queue over its wrap-around."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from igam_d2.functional import SHRINKAGES, information_amount
from igam_d2.moments import ClassMoments, EmbeddingQueue

K, D = 5, 6


def samples(n: int, seed: int = 0, mean: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of classes 0 ... K - 2; class K - 1 is never seen."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(K - 1, (n,), generator=generator)
    x = torch.randn(n, D, generator=generator) * (1 + classes[:, None]) + mean * classes[:, None]
    return x, classes


def assert_moments(moments: ClassMoments, x: torch.Tensor, classes: torch.Tensor, rtol=1e-5):
    """Count, mean and covariance equal those of the concatenation, in float64."""
    covariance = moments.covariance()
    for k in range(K):
        own = x[classes == k].double()
        assert moments.count[k] == len(own)
        if len(own) == 0:
            assert (covariance[k] == 0).all()
            continue
        expected = (own - own.mean(0)).T @ (own - own.mean(0)) / len(own)
        torch.testing.assert_close(moments.mean[k].double(), own.mean(0), rtol=1e-5, atol=1e-5)
        error = (covariance[k].double() - expected).norm() / expected.norm().clamp(min=1e-12)
        assert error < rtol


@pytest.mark.parametrize("chunks", [(400,), (1, 399), (7, 0, 93, 300), (1,) * 60])
def test_updates_equal_the_concatenation(chunks):
    x, classes = samples(sum(chunks))
    moments = ClassMoments(K, D)
    for xs, cs in zip(x.split(chunks), classes.split(chunks), strict=True):
        moments.update(xs, cs)
    assert_moments(moments, x, classes)


def test_merge_equals_the_concatenation_and_reset_forgets():
    x, classes = samples(300)
    a, b = ClassMoments(K, D), ClassMoments(K, D)
    a.update(x[:80], classes[:80])
    b.update(x[80:], classes[80:])
    assert_moments(a.merge_(b).merge_(ClassMoments(K, D)), x, classes)
    assert_moments(ClassMoments(K, D).merge_(a), x, classes)
    assert all((buffer == 0).all() for buffer in a.reset_().buffers())


def test_a_million_embeddings_far_from_zero_keep_precision():
    """A mean of 100 times the spread: 1e-4 of the covariance's norm."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor([0.9, 0.09, 0.01, 0.0, 0.0])
    classes = torch.multinomial(weights, 10**6, True, generator=generator)
    x = torch.randn(10**6, D, generator=generator).add_(100)
    moments = ClassMoments(K, D)
    for xs, cs in zip(x.split(5000), classes.split(5000), strict=True):
        moments.update(xs, cs)
    assert_moments(moments, x, classes, rtol=1e-4)


@pytest.mark.parametrize("shrinkage", SHRINKAGES)
def test_information_in_chunks_equals_all_at_once(shrinkage):
    x, classes = samples(120)
    moments = ClassMoments(K, D)
    moments.update(x, classes)
    expected = information_amount(moments.covariance(), moments.count, shrinkage=shrinkage)
    for max_bytes in (1, 2 * D * D * 4, 2**30):
        got = moments.information_amount(shrinkage=shrinkage, max_bytes=max_bytes)
        torch.testing.assert_close(got, expected)


def test_statistics_are_exact_where_products_may_be_tf32():
    x, classes = samples(400)
    moments = ClassMoments(K, D)
    allowed = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        moments.update(x, classes)
    finally:
        torch.backends.cuda.matmul.fp32_precision = allowed
    assert_moments(moments, x, classes)


def test_wrong_sizes_widths_and_labels():
    for sizes in ((0, D), (-1, D), (K, 0)):
        with pytest.raises(ValueError, match=r"must be positive, not (0|-1)\."):
            ClassMoments(*sizes)
    with pytest.raises(ValueError, match="length must be positive, not 0"):
        EmbeddingQueue(0, D)
    moments, queue = ClassMoments(K, D), EmbeddingQueue(4, D)
    for add in (moments.update, queue.enqueue):
        with pytest.raises(ValueError, match=r"must be \(2, 6\) for 2 classes, not \(2, 5\)"):
            add(torch.rand(2, 5), torch.tensor([0, 1]))
    for classes in ([0, K + 1], [-1, 0]):
        with pytest.raises(ValueError, match=r"from 0 to 5 \(the background\)"):
            moments.update(torch.rand(2, D), torch.tensor(classes))
    moments.update(torch.rand(0, D), torch.empty(0, dtype=torch.int64))
    assert all((buffer == 0).all() for buffer in moments.buffers())


def test_background_and_nonfinite_embeddings_are_left_out():
    x, classes = samples(100)
    dirty, labels = x.clone(), classes.clone()
    dirty[3, 2], dirty[50, 0] = math.nan, math.inf
    labels[10:20] = K  # background
    dirty[15] = math.nan  # a broken background RoI is no concern of the statistics
    moments = ClassMoments(K, D)
    moments.update(dirty, labels)
    keep = torch.ones(100, dtype=torch.bool)
    keep[[3, 50, *range(10, 20)]] = False
    assert_moments(moments, x[keep], classes[keep])
    assert moments.num_nonfinite == 2


def test_half_precision_gives_float32_statistics():
    x, classes = samples(200)
    moments, queue = ClassMoments(K, D), EmbeddingQueue(200, D)
    queue.enqueue(x.half(), classes)
    queue.flush_(moments)
    assert moments.scatter.dtype == torch.float32
    assert_moments(moments, x.half().float(), classes)


@pytest.mark.parametrize("length", [1, 7, 64, 1000])
def test_queue_wraps_around_without_loss(length):
    x, classes = samples(200)
    moments, queue = ClassMoments(K, D), EmbeddingQueue(length, D)
    flushes = 0
    for xs, cs in zip(x.split(23), classes.split(23), strict=True):
        while len(cs):
            taken = queue.enqueue(xs, cs)
            xs, cs = xs[taken:], cs[taken:]
            if queue.is_full:
                queue.flush_(moments)
                flushes += 1
    assert flushes == 200 // length
    queue.flush_(moments)
    queue.flush_(moments)  # of nothing
    assert_moments(moments, x, classes)


def test_filling_the_queue_never_waits_for_the_device():
    """Tensors without values: to look at one, as a synchronisation does, is an error."""
    queue = EmbeddingQueue(10, D).to("meta")
    x, classes = torch.empty(7, D, device="meta"), torch.empty(7, dtype=int, device="meta")
    assert queue.enqueue(x, classes) == 7 and queue.enqueue(x, classes) == 3 and queue.is_full


def test_queue_is_never_saved():
    assert not EmbeddingQueue(4, D).state_dict()


def test_state_dict_restores_the_moments():
    x, classes = samples(50)
    moments, restored = ClassMoments(K, D), ClassMoments(K, D)
    moments.update(x, classes)
    restored.load_state_dict(moments.state_dict())
    assert_moments(restored, x, classes)


def _reduce(rank: int, file: str):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    x, classes = samples(200, mean=100.0)
    moments = ClassMoments(K, D)
    if rank == 0:  # class 0 on this process alone, so that the other has no instance of it
        moments.update(x[classes == 0], classes[classes == 0])
    else:
        moments.update(x[classes != 0], classes[classes != 0])
    moments.all_reduce_()
    assert_moments(moments, x, classes)
    dist.destroy_process_group()


def test_two_processes_reduce_to_the_moments_of_one(tmp_path):
    mp.spawn(_reduce, args=(str(tmp_path / "store"),), nprocs=2)


def test_single_process_reduces_to_itself():
    x, classes = samples(30)
    moments = ClassMoments(K, D)
    moments.update(x, classes)
    assert_moments(moments.all_reduce_(), x, classes)
