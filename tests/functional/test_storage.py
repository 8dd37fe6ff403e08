"""Storage against the worked numbers of the paper."""

import pytest

from igam_d2 import functional as IF


@pytest.mark.parametrize(
    "n, k, length, original, scheme",
    [(55800, 20, 11517, 27.25, 11.87), (605638, 80, 68182, 295.72, 78.29)],
)
def test_worked_storage_examples(n, k, length, original, scheme):
    assert IF.optimal_queue_length(n, 128, k) == length
    megabytes = n * 128 * 4 / 2**20
    assert megabytes == pytest.approx(original, abs=0.005)
    assert IF.storage_ratio(length, n, 128, k) * megabytes == pytest.approx(scheme, abs=0.005)


def test_storage_of_lvis_exceeds_the_original():
    assert IF.storage_ratio(50000, 1_270_000, 128, 1203) == pytest.approx(3.2, abs=0.05)
    assert IF.storage_ratio(50000, 1_270_000, 1024, 1203) == pytest.approx(25, abs=0.3)
