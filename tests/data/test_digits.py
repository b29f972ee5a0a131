import torch

from llcert.data import load_dataset


def test_the_split_is_fixed_disjoint_and_stratified():
    train, test = (load_dataset("digits", split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1437, 360)
    assert train.image_shape == test.image_shape == (1, 8, 8)
    counts = torch.from_numpy(test.labels).bincount(minlength=10)
    assert counts.tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]


def test_sixteen_is_white_and_all_images_are_there():
    halves = [load_dataset("digits", split=split) for split in ("train", "test")]
    images = torch.cat([next(half.batches(range(len(half)), len(half))).images for half in halves])
    assert images.shape == (1797, 1, 8, 8)
    assert images.min() == 0
    assert images.max() == 1
    assert torch.equal(images * 16, (images * 16).round())
    assert int((images * 16).sum()) == 561718  # of the 1,797 x 64 grey levels as published


def test_it_names_its_licence():
    data = load_dataset("digits")
    assert "CC BY 4.0" in data.note
    assert data.class_names == tuple("0123456789")
    assert data.pixel_range == (0.0, 1.0)
