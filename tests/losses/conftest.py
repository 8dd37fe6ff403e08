import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """For tensors as small as these, a second thread takes longer than it helps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def float64():
    """Buffers and constants are made in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
