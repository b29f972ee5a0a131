"""The real files, where they lie beside the repository."""

import pytest
import torch

from llcert.data import load_dataset
from llcert.errors import InvalidInput


@pytest.mark.parametrize(
    ("name", "split", "count", "first_labels", "mean"),
    [
        ("mnist", "test", 10_000, [7, 2, 1, 0, 4], 0.1325),
        ("mnist", "train", 60_000, [5, 0, 4, 1, 9], 0.1307),
        ("fashion-mnist", "test", 10_000, [9, 2, 1, 1, 6], 0.2868),
        ("cifar10", "test", 10_000, [3, 8, 8, 0, 6], 0.4766),
    ],
)
def test_images_and_labels(shared, name, split, count, first_labels, mean):
    data = load_dataset(name, split=split, root=shared, download=False)
    assert len(data) == count
    assert data.labels[:5].tolist() == first_labels
    sums = [batch.images.double().sum() for batch in data.batches(range(count), 5000)]
    assert float(torch.stack(sums).sum()) / count / torch.tensor(data.image_shape).prod() == pytest.approx(
        mean, abs=1e-4
    )
    assert torch.from_numpy(data.labels).bincount().numel() == data.class_count == 10


def test_tiny_imagenet(shared):
    data = load_dataset("tiny-imagenet", root=shared, download=False)
    assert (len(data), data.class_count, data.image_shape) == (10_000, 200, (3, 64, 64))
    assert set(torch.from_numpy(data.labels).bincount().tolist()) == {50}
    batch = next(data.batches(range(200), 200))
    grey = (batch.images == batch.images[:, :1]).flatten(1).all(1)
    assert 0 < int(grey.sum()) < 20
    assert 0.3 < float(batch.images.mean()) < 0.6


@pytest.mark.parametrize(
    ("name", "label", "shape"),
    [
        ("mnistfc/prop_0_0.03", 8, (1, 28, 28)),
        ("cifar10_resnet/prop_0_eps_0.008", 2, (3, 32, 32)),
        ("oval21/cifar_base_kw-img1598-eps0.0026143790849673205", 5, (3, 32, 32)),
    ],
)
def test_vnnlib(shared, name, label, shape):
    data = load_dataset(f"{shared}/vnnlib/{name}.vnnlib.gz", image_shape=shape)
    assert data.labels.tolist() == [label]
    assert next(data.batches(range(1), 1)).images.shape == (1, *shape)


def test_a_target_alone_is_no_label(shared):
    name = "marabou-cifar10/networkcifar10_small_index1189_eps0.012_target1_orig0"
    with pytest.raises(InvalidInput, match="do not say which class"):
        load_dataset(f"{shared}/vnnlib/{name}.vnnlib.gz")
