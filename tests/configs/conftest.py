import pytest
import torch
from resnet_weights import write_resnet_weights
from tiny_trees import make_trees, registered


@pytest.fixture(autouse=True)
def one_thread():
    """On a machine that is busy, threads of small images wait for each other longer than they
    work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trees(tmp_path_factory):
    """A folder of all data sets, tiny."""
    return make_trees(tmp_path_factory.mktemp("trees"))


@pytest.fixture
def datasets(trees):
    """The tiny data sets in the place of the registered ones."""
    with registered(trees):
        yield trees


@pytest.fixture(scope="session")
def backbone_weights(tmp_path_factory):
    """Config -> a file of weights for its ResNet, "" for another backbone."""
    folder = tmp_path_factory.mktemp("weights")

    def weights(cfg) -> str:
        if "resnet" not in cfg.MODEL.BACKBONE.NAME:
            return ""
        path = folder / f"R-{cfg.MODEL.RESNETS.DEPTH}.pkl"
        if not path.is_file():
            write_resnet_weights(cfg, path)
        return str(path)

    return weights
