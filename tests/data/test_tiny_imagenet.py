import pytest

from llcert.data import load_dataset
from llcert.errors import InvalidInput

TOP = "tiny-imagenet-200"


def load(write, split="test"):
    return load_dataset("tiny-imagenet", split=split, root=write.root, download=False)


def store(write, form, members, *, folder="tiny-imagenet"):
    match form:
        case "folder":
            for name, content in members.items():
                write.put(f"{folder}/{name}", content)
        case "zip":
            write.put(f"{folder}/{TOP}.zip", write.zip(members))
        case "tar.gz" | "val.tar.gz":
            write.put(f"{folder}/{TOP}{'-val' if form[0] == 'v' else ''}.tar.gz", write.tar(members))


@pytest.mark.parametrize("form", ["folder", "zip", "tar.gz", "val.tar.gz"])
@pytest.mark.parametrize("folder", ["tiny-imagenet", "."])
def test_validation_images(write, form, folder):
    store(write, form, write.tiny_imagenet(), folder=folder)
    data = load(write)
    assert data.labels.tolist() == [0, 1, 2, 0, 1]
    assert data.class_names[0] == "n02124075"
    assert (data.class_count, data.image_shape) == (3, (3, 64, 64))
    images = next(data.batches(range(5), 5)).images
    assert images.shape == (5, 3, 64, 64)
    for index, image in enumerate(images):
        assert (image * 255 - 20 * index).abs().max() <= 1.01


@pytest.mark.parametrize("form", ["folder", "zip", "tar.gz"])
def test_training_images_come_class_by_class_in_order(write, form):
    store(write, form, write.tiny_imagenet())
    data = load(write, "train")
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    levels = [round(float(batch.images.mean()) * 255) for batch in data.batches(range(9), 1)]
    assert all(abs(level - (50 * (i // 3) + (0, 1, 10)[i % 3])) <= 1 for i, level in enumerate(levels))


def test_a_root_that_is_the_folder_itself(write):
    for name, content in write.tiny_imagenet().items():
        write.put(name.removeprefix(f"{TOP}/"), content)
    assert len(load(write)) == 5


def damaged(members, name, content):
    changed = dict(members)
    if content is None:
        del changed[f"{TOP}/{name}"]
    else:
        changed[f"{TOP}/{name}"] = content
    return changed


@pytest.mark.parametrize("form", ["folder", "zip", "tar.gz"])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("wnids.txt", b"", "empty"),
        ("wnids.txt", b"n02124075\nn02124075\n", "listed twice"),
        ("wnids.txt", b"../../etc\n", "not a WordNet id"),
        ("wnids.txt", b"\xff\xfe", "text file"),
        ("val/val_annotations.txt", None, "val_annotations.txt"),
        ("val/val_annotations.txt", b"", "no images"),
        ("val/val_annotations.txt", b"val_0.JPEG\n", "cannot use the line"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn99999999\t0\n", "cannot use the line"),
        ("val/val_annotations.txt", b"../../x.JPEG\tn02124075\t0\n", "cannot use the line"),
        ("val/images/val_3.JPEG", None, "1 annotated images are missing, such as val/images/val_3.JPEG"),
        ("val/images/val_3.JPEG", b"", "not a readable picture"),
        ("val/images/val_3.JPEG", b"\xff\xd8\xff\xe0 JFIF", "not a readable picture"),
    ],
)
def test_damage_is_named(write, form, name, content, message):
    store(write, form, damaged(write.tiny_imagenet(), name, content))
    with pytest.raises(InvalidInput, match=message):
        list(load(write).batches(range(5), 5))


def test_a_picture_of_another_size(write):
    members = write.tiny_imagenet()
    members[f"{TOP}/val/images/val_2.JPEG"] = write.picture(write.bytes_of(32, 64, 3), "JPEG")
    store(write, "zip", members)
    with pytest.raises(InvalidInput, match="64 x 32 pixels"):
        list(load(write).batches(range(5), 5))


def test_a_class_without_pictures(write):
    members = {name: content for name, content in write.tiny_imagenet().items() if "train/n01443537" not in name}
    store(write, "zip", members)
    with pytest.raises(InvalidInput, match="train/n01443537"):
        load(write, "train")


def test_missing_names_the_address(write):
    with pytest.raises(InvalidInput, match=r"tiny-imagenet-200.zip is not in .* https://"):
        load(write)
