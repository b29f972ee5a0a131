"""Training data: splits by class, all images in memory, and the order of every epoch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llcert.data.dataset import Dataset, Labels, subset
from llcert.errors import InvalidInput
from llcert.machine.memory import free_memory

Positions = npt.NDArray[np.int64]

TEST_SHARE = 0.2
_DEVICE_SHARE = 0.4
_CHUNK = 1 << 23  # values read at once, 32 MiB of float32
_BYTES = 255.0


def split_path(dataset: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """Training images and the fifth kept for testing, of a data set that has no split of its own; both stratified.

    Raises InvalidInput where no class holds two images, so that none is left to test on.
    """
    train, test = stratified(dataset.labels, TEST_SHARE, seed)
    if not len(test):
        raise InvalidInput(f"{dataset.name}: no class holds two images, so none can be kept for testing; add more")
    return subset(dataset, train, "train"), subset(dataset, test, "test")


def stratified(labels: Labels, share: float, seed: int) -> tuple[Positions, Positions]:
    """Positions of a first and a second part, each sorted, which together hold every position once.

    labels: `[images]`. share: of each class that the second part gets, rounded to whole images; at least 0, below 1.
    The first part keeps at least one image of every class; the second gets one of each class that has two, unless
    share is 0. A function of its arguments alone: the raw stream of numpy's generator never changes.
    Raises InvalidInput for a share outside its range.
    """
    if not 0 <= share < 1:
        raise InvalidInput(f"share {share:g}: give one from 0 up to, not including, 1")
    keys = np.random.Philox(_mixed("split", seed)).random_raw(len(labels))
    shuffled = np.lexsort((keys, labels))  # class by class, at random within each
    _, starts, sizes = np.unique(labels[shuffled], return_index=True, return_counts=True)
    least = np.minimum(sizes - 1, 1 if share else 0)
    wanted = np.clip(np.floor(sizes * share + 0.5).astype(np.int64), least, sizes - 1)
    rank = np.arange(len(labels)) - np.repeat(starts, sizes)
    second = rank < np.repeat(wanted, sizes)
    return np.sort(shuffled[~second]), np.sort(shuffled[second])


def order(*, seed: int, epoch: int, count: int) -> Tensor:
    """The order of `count` images in an epoch: int64 `[count]` on the CPU, a function of its arguments alone."""
    return torch.randperm(count, generator=generator("order", seed=seed, number=epoch))


def generator(purpose: str, *, seed: int, number: int) -> torch.Generator:
    """A fresh source of random numbers on the CPU for one purpose and one step or epoch of the run of this seed."""
    return torch.Generator().manual_seed(_mixed(purpose, seed, number))


def _mixed(purpose: str, *numbers: int) -> int:
    """64 bits that change as a whole with any argument, so that neighbouring seeds and steps have nothing in common."""
    text = ":".join((purpose, *(f"{number:d}" for number in numbers)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


@dataclass(frozen=True, eq=False)
class TrainingData:
    """All images of a data set in memory; `TrainingData.of` reads them.

    pixels: `[images, *shape]`, uint8 or float32, on `device`, or on the CPU where that has too little room.
    labels: int64 `[images]`, on `device`. scale: the value of `pixels` that stands for 1.0.
    device: where the batches go.
    """

    pixels: Tensor
    labels: Tensor
    scale: float
    device: torch.device

    @classmethod
    def of(cls, dataset: Dataset, device: torch.device) -> TrainingData:
        """Every image of the data set, as bytes where all values are exactly k/255, else as float32.

        They stay on the CPU where they take more than 40 % of what is free on the device.
        Raises InvalidInput where an image cannot be decoded, or the machine has too little memory for all of them.
        """
        pixels, scale = _read(dataset)
        if pixels.nbytes <= _DEVICE_SHARE * free_memory(device):
            pixels = pixels.to(device)
        return cls(pixels, torch.tensor(dataset.labels, device=device), scale, device)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[batch, *shape]`, those of `Dataset.batches` rounded to float32, and labels int64, on `device`.

        positions: int64 `[batch]`, on any device.
        """
        images = self._chosen(positions).to(torch.float32)
        if self.scale != 1:
            # CUDA divides by a plain number by multiplying with its reciprocal, which rounds otherwise
            images /= torch.full((), self.scale, device=self.device)
        return images, self.labels.index_select(0, positions.to(self.device))

    def _chosen(self, positions: Tensor) -> Tensor:
        """New tensor `[batch, *shape]` on `device`, in the type of `pixels`."""
        local = positions.to(self.pixels.device)
        if not (self._apart and self.device.type == "cuda"):
            return self.pixels.index_select(0, local).to(self.device)
        pinned = torch.empty((len(local), *self.pixels.shape[1:]), dtype=self.pixels.dtype, pin_memory=True)
        return torch.index_select(self.pixels, 0, local, out=pinned).to(self.device, non_blocking=True)

    @property
    def _apart(self) -> bool:
        return self.pixels.device.type != self.device.type

    @property
    def sentence(self) -> str:
        """For the user: how many images there are, how they are kept, how large they are and where they lie."""
        kind = "bytes" if self.pixels.dtype == torch.uint8 else "float32"
        way = f", copied to {self.device} batch by batch" if self._apart else ""
        return f"training images: {len(self):,} as {kind} ({_size(self.pixels.nbytes)}) on {self.pixels.device}{way}"


def some_images(train: Dataset, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images and labels, so many of them at random."""
    chosen = order(seed=seed, epoch=-1, count=len(train))[:count]
    data = TrainingData.of(subset(train, chosen.numpy(), "train"), torch.device("cpu"))
    return data.batch(torch.arange(len(chosen)))


def _read(dataset: Dataset) -> tuple[Tensor, float]:
    """Pixels `[images, *shape]` and their scale: bytes until the first image that is not made of them."""
    pixels, scale, done = _room(dataset, torch.uint8), _BYTES, 0
    chunk = max(1, _CHUNK // pixels[0].numel())
    for batch in dataset.batches(range(len(dataset)), chunk):
        found = _as_bytes(batch.images) if scale == _BYTES else batch.images
        if found is None:
            floats = _room(dataset, torch.float32)
            torch.div(pixels[:done], _BYTES, out=floats[:done])
            pixels, scale, found = floats, 1.0, batch.images  # training may round
        pixels[done : done + len(found)] = found
        done += len(found)
    return pixels, scale


def _room(dataset: Dataset, dtype: torch.dtype) -> Tensor:
    shape = (len(dataset), *dataset.image_shape)
    size, free = torch.Size(shape).numel() * dtype.itemsize, free_memory(torch.device("cpu"))
    if size > free:
        raise InvalidInput(f"{dataset.name}: its images take {_size(size)} and {_size(free)} are free; train on fewer")
    return torch.empty(shape, dtype=dtype)


def _as_bytes(images: Tensor) -> Tensor | None:
    """uint8 `[batch, *shape]` that the images are 1/255 of in float32, bit for bit; None where there are none."""
    levels = (images * _BYTES).round().clamp(0, _BYTES).to(torch.uint8)
    same = torch.equal((levels / _BYTES).view(torch.int32), images.float().view(torch.int32))
    return levels if same else None


def _size(count: int) -> str:
    """Bytes for people: 45 MiB, 1.2 GiB."""
    power = min((max(count, 1).bit_length() - 1) // 10, 3)
    return f"{count / (1 << 10 * power):,.{power // 3}f} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"
