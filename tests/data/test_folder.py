import os

import numpy as np
import pytest
import torch
from PIL import Image

from llcert.data import load_dataset
from llcert.errors import InvalidInput


def load(write):
    data = load_dataset(str(write.root / "set"))
    return data, next(data.batches(range(len(data)), 100))


@pytest.mark.parametrize(("ending", "kind"), [(".png", "PNG"), (".PNG", "PNG"), (".bmp", "BMP")])
def test_classes_and_pictures_in_the_order_of_their_names(write, ending, kind):
    pixels = write.bytes_of(3, 5, 4, 3)
    for name, content in zip(("dog/b", "cat/z", "dog/a"), pixels, strict=True):
        write.put(f"set/{name}{ending}", write.picture(content, kind))
    write.put("set/readme.txt", b"not a class")
    write.put("set/.hidden/x.png", b"")
    write.put("set/dog/notes.txt", b"")
    data, batch = load(write)
    assert data.class_names == ("cat", "dog")
    assert data.labels.tolist() == [0, 1, 1]
    assert data.image_shape == (3, 5, 4)
    expected = torch.from_numpy(pixels[[1, 2, 0]].transpose(0, 3, 1, 2).copy()).double() / 255
    assert torch.equal(batch.images, expected)


def test_grey_pictures_have_one_channel(write):
    pixels = write.bytes_of(5, 4)
    write.put("set/a/1.png", write.picture(pixels))
    data, batch = load(write)
    assert data.image_shape == (1, 5, 4)
    assert torch.equal(batch.images[0, 0], torch.from_numpy(pixels).double() / 255)


def test_grey_among_colour_is_repeated(write):
    write.put("set/a/1.png", write.picture(np.full((2, 2), 51, np.uint8)))
    write.put("set/b/1.png", write.picture(np.zeros((2, 2, 3), np.uint8)))
    _, batch = load(write)
    assert torch.equal(batch.images[0], torch.full((3, 2, 2), 0.2, dtype=torch.float64))


def test_jpeg(write):
    write.put("set/a/1.jpeg", write.picture(np.full((8, 8, 3), 100, np.uint8), "JPEG"))
    _, batch = load(write)
    assert (batch.images * 255 - 100).abs().max() <= 1


def test_palettes_are_resolved(write):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    picture.putpalette([255, 0, 0, 0, 255, 0])
    (write.root / "set/a").mkdir(parents=True)
    picture.save(write.root / "set/a/1.png")
    _, batch = load(write)
    assert batch.images[0, :, 0].T.tolist() == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "CMYK"])
def test_pictures_that_would_be_changed_by_reading_are_refused(write, mode):
    ending = "jpg" if mode == "CMYK" else "png"
    (write.root / "set/a").mkdir(parents=True)
    Image.new(mode, (4, 4)).save(write.root / f"set/a/1.{ending}")
    with pytest.raises(InvalidInput, match="8-bit grey or RGB"):
        load(write)


def test_two_sizes_are_named(write):
    write.put("set/a/1.png", write.picture(write.bytes_of(5, 4)))
    write.put("set/a/2.png", write.picture(write.bytes_of(4, 5)))
    with pytest.raises(InvalidInput, match=r"2\.png: 5 x 4 pixels, where .*1\.png has 4 x 5"):
        load(write)


def test_huge_pictures_are_not_decoded(write):
    write.put("set/a/1.png", write.picture(np.zeros((4097, 4097), np.uint8)))
    with pytest.raises(InvalidInput, match="4097 x 4097 pixels are more"):
        load(write)


@pytest.mark.parametrize("files", [{"set/readme.txt": b""}, {"set/1.png": b""}, {"set/a/readme.txt": b""}])
def test_no_pictures(write, files):
    for name, content in files.items():
        write.put(name, content)
    with pytest.raises(InvalidInput, match=r"holds no class folders|a class without pictures"):
        load(write)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"BM"])
def test_no_picture(write, content):
    write.put("set/a/1.png", content)
    with pytest.raises(InvalidInput, match="not a readable picture"):
        load(write)


def test_a_truncated_picture_is_refused_when_it_is_decoded(write):
    whole = write.picture(write.bytes_of(16, 16, 3))
    write.put("set/a/1.png", whole[: len(whole) // 2])
    with pytest.raises(InvalidInput, match=r"1\.png: not a readable picture"):
        load(write)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_dangling_links_are_passed_over(write):
    write.put("set/a/1.png", write.picture(write.bytes_of(4, 4)))
    os.mkfifo(write.root / "set/a/2.png")
    (write.root / "set/a/3.png").symlink_to(write.root / "absent.png")
    (write.root / "set/a/loop").symlink_to(write.root / "set")
    data, _ = load(write)
    assert len(data) == 1
