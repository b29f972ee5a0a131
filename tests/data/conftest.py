"""Writers of small data files in the official formats, for the tests of their readers."""

import gzip
import io
import lzma
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).parents[3] / "shared" / "data"
WNIDS = ("n02124075", "n01443537", "n04067472")
COMPRESS = {"": lambda content: content, ".gz": gzip.compress, ".xz": lzma.compress}


class Writers:
    """Each method writes below `root` and returns what a reader should find."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rng = np.random.default_rng(7)

    def put(self, name: str, content: bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def bytes_of(self, *shape: int) -> np.ndarray:
        return self.rng.integers(0, 256, shape, dtype=np.uint8)

    def labels_of(self, count: int, classes: int = 10) -> np.ndarray:
        return self.rng.integers(0, classes, count)

    def compressed(self, name: str, content: bytes) -> Path:
        """The file, compressed by the ending of its name."""
        return self.put(name, COMPRESS.get(Path(name).suffix, COMPRESS[""])(content))

    def idx(self, array: np.ndarray) -> bytes:
        header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
        return header + array.astype(np.uint8).tobytes()

    def mnist(self, folder="mnist", stem="t10k", count=7, ending=".gz", dot="-"):
        images, labels = self.bytes_of(count, 28, 28), self.labels_of(count)
        self.put(f"{folder}/{stem}-images{dot}idx3-ubyte{ending}", COMPRESS[ending](self.idx(images)))
        self.put(f"{folder}/{stem}-labels{dot}idx1-ubyte{ending}", COMPRESS[ending](self.idx(labels)))
        return images[:, None], labels

    def cifar_records(self, count=3, classes=10, label_bytes=1):
        images, labels = self.bytes_of(count, 3, 32, 32), self.labels_of(count, classes)
        columns = [np.full((count, 1), 3, np.uint8)] * (label_bytes - 1) + [labels[:, None].astype(np.uint8)]
        return np.concatenate([*columns, images.reshape(count, -1)], axis=1).tobytes(), images, labels

    def cifar_pickle(self, count=3, classes=10, key=b"labels", protocol=2):
        images, labels = self.bytes_of(count, 3, 32, 32), self.labels_of(count, classes)
        names = [f"picture_{index}.png".encode() for index in range(count)]
        content = {b"batch_label": b"testing batch", key: labels.tolist(), b"filenames": names}
        return pickle.dumps(content | {b"data": images.reshape(count, -1)}, protocol), images, labels

    def tar(self, members: dict[str, bytes], mode="w:gz") -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode=mode) as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return stream.getvalue()

    def zip(self, members: dict[str, bytes]) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return stream.getvalue()

    def picture(self, pixels: np.ndarray, kind="PNG") -> bytes:
        """pixels: uint8 `[height, width]` or `[height, width, 3]`."""
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        return stream.getvalue()

    def tiny_imagenet(self, per_class=2) -> dict[str, bytes]:
        """The members of a small archive, below `tiny-imagenet-200/`; flat pictures, which JPEG keeps nearly exact.

        The validation image i has the label i modulo 3 and the grey level 20 i; image 1 is a grey JPEG.
        """
        members = {"wnids.txt": "\n".join(WNIDS).encode() + b"\n"}
        lines = []
        for index in range(5):
            shape = (64, 64) if index == 1 else (64, 64, 3)
            members[f"val/images/val_{index}.JPEG"] = self.picture(np.full(shape, 20 * index, np.uint8), "JPEG")
            lines.append(f"val_{index}.JPEG\t{WNIDS[index % 3]}\t0\t32\t44\t62\n")
        members["val/val_annotations.txt"] = "".join(lines).encode()
        for label, wnid in enumerate(WNIDS):
            for index in (*range(per_class), 10):
                level = np.full((64, 64, 3), 50 * label + index, np.uint8)
                members[f"train/{wnid}/images/{wnid}_{index}.JPEG"] = self.picture(level, "JPEG")
            members[f"train/{wnid}/{wnid}_boxes.txt"] = b""
        return {f"tiny-imagenet-200/{name}": content for name, content in members.items()}

    def npz(self, **arrays: np.ndarray) -> bytes:
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)
        return stream.getvalue()

    def vnnlib(self, lower, upper, classes=3, label=1) -> str:
        lines = [f"(declare-const X_{i} Real)" for i in range(len(lower))]
        lines += [f"(declare-const Y_{i} Real)" for i in range(classes)]
        for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
            lines += [f"(assert (<= X_{i} {high}))", f"(assert (>= X_{i} {low}))"]
        rivals = " ".join(f"(and (>= Y_{i} Y_{label}))" for i in range(classes) if i != label)
        return "; a comment\n" + "\n".join(lines) + f"\n(assert (or {rivals}))\n"


@pytest.fixture(scope="session")
def writers_below() -> type[Writers]:
    return Writers


@pytest.fixture
def write(tmp_path: Path) -> Writers:
    return Writers(tmp_path)


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the shared data folder is absent")
    return SHARED
