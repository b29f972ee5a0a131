"""What a training run measured, one line of JSON an epoch: the records, and how they are read back. Cheap to import."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from llcert.errors import InvalidInput

NAME = "metrics.jsonl"
_BYTES = 1 << 28
_LARGEST, _LARGEST_WHOLE = 1e100, 1 << 53
_LAYERS, _INTERVALS = 10_000, 1_000
_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}


class _Record:
    """What the records share: how they become plain values."""

    def to_json(self) -> dict[str, Any]:
        """Every field as a plain JSON value; what is not finite is null, since JSON has no word for it."""
        return {name: _plain(value) for name, value in vars(self).items()}


@dataclass(frozen=True)
class Layer(_Record):
    """A layer as an epoch left it; means over the held-out images, None where nothing was computed.

    varying: share of its outputs that may vary in the ball, from 0 to 1. iterations: of its power iteration, counts of
    intervals, each `(lowest, highest, images)`, in order.
    """

    name: str
    operator: str
    global_norm: float | None = None
    local_norm: float | None = None
    varying: float | None = None
    iterations: tuple[tuple[int, int, int], ...] = ()

    @staticmethod
    def from_json(values: object, place: str = "layer") -> Layer:
        """The layer that `to_json` wrote. place: for the message of InvalidInput, which anything else raises."""
        fields = _Fields.of(values, place)
        return Layer(
            name=fields.text("name"),
            operator=fields.text("operator"),
            global_norm=fields.number("global_norm", least=0),
            local_norm=fields.number("local_norm", least=0),
            varying=fields.share("varying"),
            iterations=fields.intervals("iterations"),
        )


@dataclass(frozen=True)
class Train(_Record):
    """Means over the training images of an epoch, as they were trained on; None where nothing was computed.

    loss: what was minimised. clean_loss, robust_loss: cross-entropy of the logits and of the worst logits in the ball.
    """

    loss: float | None = None
    clean_loss: float | None = None
    robust_loss: float | None = None
    sparsity: float | None = None
    images_per_second: float | None = None

    @staticmethod
    def from_json(values: object, place: str = "train") -> Train:
        """The record that `to_json` wrote. place: for the message of InvalidInput, which anything else raises."""
        fields = _Fields.of(values, place)
        return Train(**{f.name: fields.number(f.name) for f in dataclasses.fields(Train)})


@dataclass(frozen=True)
class HeldOut(_Record):
    """Means over held-out images at the end of an epoch; None where nothing was computed.

    Accuracies are shares from 0 to 1. global_lipschitz, local_lipschitz: upper bounds, the second a mean over images.
    """

    images: int | None = None
    clean_accuracy: float | None = None
    attacked_accuracy: float | None = None
    certified_accuracy: float | None = None
    clean_loss: float | None = None
    robust_loss: float | None = None
    global_lipschitz: float | None = None
    local_lipschitz: float | None = None
    layers: tuple[Layer, ...] = ()

    @staticmethod
    def from_json(values: object, place: str = "held_out") -> HeldOut:
        """The record that `to_json` wrote. place: for the message of InvalidInput, which anything else raises."""
        fields = _Fields.of(values, place)
        layers = fields.entries("layers", most=_LAYERS)
        return HeldOut(
            images=fields.whole("images"),
            clean_accuracy=fields.share("clean_accuracy"),
            attacked_accuracy=fields.share("attacked_accuracy"),
            certified_accuracy=fields.share("certified_accuracy"),
            clean_loss=fields.number("clean_loss"),
            robust_loss=fields.number("robust_loss"),
            global_lipschitz=fields.number("global_lipschitz", least=0),
            local_lipschitz=fields.number("local_lipschitz", least=0),
            layers=tuple(Layer.from_json(layer, fields.at(f"layers[{i}]")) for i, layer in enumerate(layers)),
        )


@dataclass(frozen=True)
class Epoch(_Record):
    """One line of `metrics.jsonl`; epoch 0 is the network before training. None where nothing was computed.

    step: optimiser steps since the start. seconds: wall clock since the start. eps: radius trained at, in pixel units.
    """

    epoch: int
    step: int | None = None
    seconds: float | None = None
    eps: float | None = None
    kappa: float | None = None
    rate: float | None = None
    train: Train | None = None
    held_out: HeldOut | None = None

    @staticmethod
    def from_json(values: object, place: str = "") -> Epoch:
        """The epoch that `to_json` wrote: a key that is missing counts as null, an unknown one is passed over.

        place: for the message of InvalidInput, which anything else raises.
        """
        fields = _Fields.of(values, place)
        number = fields.whole("epoch")
        if number is None:
            fields.wrong("epoch", "missing")
        train, held_out = fields.values.get("train"), fields.values.get("held_out")
        return Epoch(
            epoch=number,
            step=fields.whole("step"),
            seconds=fields.number("seconds"),
            eps=fields.number("eps"),
            kappa=fields.number("kappa"),
            rate=fields.number("rate"),
            train=None if train is None else Train.from_json(train, fields.at("train")),
            held_out=None if held_out is None else HeldOut.from_json(held_out, fields.at("held_out")),
        )


def read(path: Path) -> tuple[Epoch, ...]:
    """The epochs of a `metrics.jsonl`, ascending; a last line that a killed run left unfinished is passed over.

    A run that went on from an earlier checkpoint repeats epochs: the later line counts, and drops the epochs behind it.
    Raises InvalidInput naming file and line where a line is damaged, and where no epoch is there.
    """
    *lines, _ = _content(path).split(b"\n")
    epochs: list[Epoch] = []
    for number, line in enumerate(lines, 1):
        epoch = _parsed(line, f"{path}: line {number}")
        while epochs and epochs[-1].epoch >= epoch.epoch:
            epochs.pop()
        epochs.append(epoch)
    if not epochs:
        raise InvalidInput(f"{path}: holds no finished epoch")
    return tuple(epochs)


def _content(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise InvalidInput(f"{path}: not a file")
        with path.open("rb") as file:
            content = file.read(_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "cannot be read"
        raise InvalidInput(f"{path}: {reason}; a folder that llcert trained in holds {NAME}") from None
    if len(content) > _BYTES:
        raise InvalidInput(f"{path}: holds more than {_BYTES:,} bytes, too much for the measures of a run")
    return content


def _parsed(line: bytes, place: str) -> Epoch:
    try:
        values = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "not JSON"
        raise InvalidInput(f"{place}: {reason}; was it written by llcert?") from None
    try:
        return Epoch.from_json(values)
    except InvalidInput as error:
        raise InvalidInput(f"{place}: {error}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _plain(value: Any) -> Any:
    if isinstance(value, _Record):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class _Fields:
    """A JSON object of unknown origin, and where it lies; whatever is not as asked for raises InvalidInput."""

    values: Mapping[str, object]
    place: str

    @staticmethod
    def of(values: object, place: str) -> _Fields:
        if not isinstance(values, dict):
            raise InvalidInput(f"{place or 'record'}: {_kind(values)} in place of an object")
        return _Fields(values, place)

    def at(self, name: str) -> str:
        return f"{self.place}.{name}" if self.place else name

    def wrong(self, name: str, what: str) -> NoReturn:
        raise InvalidInput(f"{self.at(name)}: {what}")

    def text(self, name: str) -> str:
        value = self.values.get(name)
        if not isinstance(value, str):
            self.wrong(name, f"{_kind(value)} in place of a text")
        return value

    def number(self, name: str, *, least: float = -_LARGEST, most: float = _LARGEST) -> float | None:
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool):
            self.wrong(name, f"{_kind(value)} in place of a number")
        if not least <= value <= most:
            self.wrong(name, f"a number outside {least:g} to {most:g}")
        return float(value)

    def share(self, name: str) -> float | None:
        return self.number(name, least=0, most=1)

    def whole(self, name: str) -> int | None:
        value = self.values.get(name)
        return None if value is None else self._whole(value, name)

    def entries(self, name: str, *, most: int) -> list[object]:
        value = self.values.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self.wrong(name, f"{_kind(value)} in place of a list")
        if len(value) > most:
            self.wrong(name, f"more than {most:,} entries")
        return value

    def intervals(self, name: str) -> tuple[tuple[int, int, int], ...]:
        found: list[tuple[int, int, int]] = []
        for i, entry in enumerate(self.entries(name, most=_INTERVALS)):
            if not isinstance(entry, list) or len(entry) != 3:
                self.wrong(f"{name}[{i}]", "not a list of lowest, highest, images")
            low, high, images = (self._whole(part, f"{name}[{i}]") for part in entry)
            if low > high or (found and low <= found[-1][1]):
                self.wrong(f"{name}[{i}]", "not an interval above the one before it")
            found.append((low, high, images))
        return tuple(found)

    def _whole(self, value: object, name: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            self.wrong(name, f"{_kind(value)} in place of a whole number")
        if not 0 <= value <= _LARGEST_WHOLE:
            self.wrong(name, f"a whole number outside 0 to {_LARGEST_WHOLE}")
        return value


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a number")
