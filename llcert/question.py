"""What a user asks of a certification, before any file is opened: plain values, cheap to import."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from llcert.errors import InvalidInput

_FRACTION = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*/\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)")


_END = re.compile(r"-?([0-9]{1,18}(\.[0-9]{0,18})?([eE][+-]?[0-9]{1,2})?|[0-9]{1,18}/0*[1-9][0-9]{0,17})")

_KINDS: Mapping[str, tuple[type, ...]] = {
    "str | None": (str,),
    "str | tuple[str, ...] | None": (str, tuple),
    "bool | None": (bool,),
    "int | None": (int,),
    "float | None": (float, int),
    "tuple[str, ...] | None": (tuple,),
    "tuple[float, ...] | None": (tuple,),
}
_EITHER = (("eps", "eps_file"), ("target", "top"))
"""Two ways to say one thing, which exclude each other."""


@dataclass(frozen=True)
class Question:
    """One field for each thing that may be asked; None where the user said nothing.

    eps: as written, `36/255` or `0.141`, or so of each image; eps_file: a file of these. target: the class that is
    claimed never to be answered. top: among how many logits the label is claimed to stay. samples: `N` or `A:B`.
    pixel_range: `LOW,HIGH`, what a pixel may be; clip_input: whether only such points of a ball count.
    batch_size: None chooses one. semantics, delta, proof_seconds: of proofs. branch_seconds: of the branch stage.
    radius: whether to search for the largest. attack: of which kind; steps, restarts, patience: of PGD. solver,
    tolerance, iterations, start: of the norms of an estimate.
    """

    eps: str | tuple[str, ...] | None = None
    eps_file: str | None = None
    target: int | None = None
    top: int | None = None
    data: str | None = None
    data_root: str | None = None
    split: str | None = None
    samples: str | None = None
    stages: tuple[str, ...] | None = None
    assurance: str | None = None
    semantics: str | None = None
    delta: float | None = None
    proof_seconds: float | None = None
    branch_seconds: float | None = None
    radius: bool | None = None
    radius_tolerance: float | None = None
    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None
    seed: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: str | None = None
    clip_input: bool | None = None
    attack: str | None = None
    pixel_range: str | None = None
    steps: int | None = None
    restarts: int | None = None
    patience: int | None = None
    solver: str | None = None
    tolerance: float | None = None
    iterations: int | None = None
    start: str | None = None

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value, kinds = getattr(self, f.name), _KINDS[str(f.type)]
            if value is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
                raise InvalidInput(f"{f.name} {str(value)[:40]!r}: give {' or '.join(k.__name__ for k in kinds)}")
        if isinstance(self.eps, tuple) and not all(isinstance(e, str) for e in self.eps):
            raise InvalidInput("eps: give every radius as text")
        for one, other in _EITHER:
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise InvalidInput(f"--{_option(one)} and --{_option(other)} exclude each other")
        if self.batch_size is not None and self.batch_size < 1:
            raise InvalidInput(f"batch size {self.batch_size}: give a whole number >= 1, or nothing to choose one")

    def filled(self, earlier: Question) -> Question:
        """The same question, with what it leaves open taken from an earlier one."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for pair in _EITHER:
            if any(values[name] is not None for name in pair):
                earlier = dataclasses.replace(earlier, **dict.fromkeys(pair))
        return Question(**{k: getattr(earlier, k) if v is None else v for k, v in values.items()})

    def to_json(self) -> dict[str, Any]:
        """What was said, as plain JSON values."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Question:
        """The question that `to_json` wrote. Raises InvalidInput for anything else."""
        try:
            known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            return Question(**known)
        except (TypeError, AttributeError) as error:
            raise InvalidInput(f"not a question llcert wrote: {error}") from error


def _option(name: str) -> str:
    return name.replace("_", "-")


def parse_eps(text: str) -> float:
    """The radius that `36/255` (exactly) or `0.141` stands for, finite and >= 0; InvalidInput for anything else."""
    found = _FRACTION.fullmatch(text.strip())
    plain = text.isascii() and not text.strip().startswith("-")
    try:
        value = math.nan if not plain else float(Fraction(found[1]) / Fraction(found[2])) if found else float(text)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if value == 0 and re.search("[1-9]", text.lower().split("e")[0].split("/")[0]):
        value = math.nan  # not zero, but too small for a number
    if not 0 <= value < math.inf:
        raise InvalidInput(f"eps {text[:40]!r}: give a finite number >= 0 or a fraction such as 36/255, in pixel units")
    return value


def parse_range(text: str) -> tuple[str, str]:
    """The two ends of `0,1` or `-1/2,0.5` as texts of finite numbers, the lower one first; InvalidInput for others."""
    ends = tuple(part.strip() for part in text.split(","))
    known = len(ends) == 2 and all(_END.fullmatch(end) for end in ends)
    if not known or not float(Fraction(ends[0])) < float(Fraction(ends[1])):
        raise InvalidInput(f"range {text[:40]!r}: give the lowest and the highest value of a pixel, as in 0,1 or -1,1")
    return ends[0], ends[1]


def parse_numbers(text: str, name: str) -> tuple[float, ...]:
    """The finite numbers of a comma list. name: of the option, for the message of InvalidInput."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(math.isfinite(value) for value in values):
        raise InvalidInput(f"{name} {text[:40]!r}: give one finite number a channel, as in 0.4914,0.4822,0.4465")
    return values


def parse_list(text: str) -> tuple[str, ...]:
    """The words of a comma list."""
    return tuple(part.strip() for part in text.split(","))


def parse_batch_size(text: str) -> int | None:
    """A number of images >= 1, or None for `auto`."""
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= len(text) <= 9 or int(text) < 1:
        raise InvalidInput(f"batch size {text[:40]!r}: give auto or a whole number >= 1")
    return int(text)
