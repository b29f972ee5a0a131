"""The options of a certification as a user gives them: plain values, before any file is opened.

To add one: a field here, which makes it an argument of `llcert certify` and `llcert.certify`, a key of `run.json` and
of a run's identity; and a field of the same name in `llcert.certification.Settings`, which holds its resolved value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from llcert.errors import InvalidInput
from llcert.options.declaration import Declaration, checked, declaration_of, kind_of, name_in_words
from llcert.options.stages import STAGES, read_stages
from llcert.options.text import read_batch_size, read_eps, read_numbers, read_path, read_range

ASKED, RUN, OUTPUT, EXPERT = PANELS = ("What is asked", "How it runs", "Where results go", "Experts")
"""The panels of a command's help, in their order."""

_WHOLE = 2**31 - 1
_EITHER = (("eps", "eps_file"), ("target", "top"))
"""Pairs of options that exclude each other."""


def _option(help: str, *, panel: str = ASKED, **more: Any) -> Any:
    """A field that is None where nothing is given."""
    return Declaration(help, panel=panel, **more).field


_expert = partial(_option, panel=EXPERT)
_run = partial(_option, panel=RUN)


@dataclass(frozen=True)
class Options:
    """Every option of a certification as it was given; None where nothing was.

    Raises InvalidInput in one line for a value of another type or outside its range, and for two that exclude each
    other.
    """

    eps: str | tuple[str, ...] | None = _option(
        "L2 radius in pixel units (pixels in [0, 1]): [bold]36/255[/] or [bold]0.141[/].",
        shown="what the model's metadata says",
        metavar="RADIUS",
        read=read_eps,
        identity="eps",
    )
    eps_file: str | None = _option(
        "A radius for each image in place of --eps: text, one number or fraction a line, or an [bold].npy[/] vector; "
        "as many as the data set has images, or as are chosen.",
        metavar="FILE",
        read=read_path,
        identity="radii_sha256",
    )
    target: int | None = _option(
        "Claim that the network never answers this class, in place of: it keeps answering the label. Images of the "
        "class are left out.",
        metavar="CLASS",
        identity="claim",
    )
    top: int | None = _option(
        "Claim that the label stays among the K largest logits.", shown="1", metavar="K", identity="claim"
    )
    data: str | None = _option(
        "digits, mnist, fashion-mnist, cifar10, cifar100, tiny-imagenet; or an .npz, .vnnlib or .parquet file, or a "
        "folder of class folders.",
        shown="what the model's metadata says",
        metavar="NAME|PATH",
        identity="data",
    )
    data_root: str | None = _option(
        "Where official data files lie or are downloaded to.", metavar="DIR", read=read_path
    )
    split: str | None = _option("test or train, of a named data set.", default="test", metavar="NAME", identity="split")
    samples: str | None = _option(
        "The first N images, or images A to B-1.", shown="all", metavar="N|A:B", identity="samples"
    )
    mean: tuple[float, ...] | None = _option(
        "Comma list, one value a channel, subtracted from the pixels in front of the model; eps stays in pixel units.",
        metavar="LIST",
        read=read_numbers,
        identity="mean",
    )
    std: tuple[float, ...] | None = _option(
        "Comma list, one value a channel; pixels are divided by it.",
        metavar="LIST",
        read=read_numbers,
        identity="std",
    )
    layout: str | None = _option(
        "How the model wants its images: NCHW, NHWC or flat.",
        shown="guessed and stated",
        metavar="NAME",
        identity="layout",
    )
    stages: tuple[str, ...] | None = _option(
        f"Comma list of {', '.join(STAGES)}; cheap ones run first. With local alone every image passes through it.",
        default=tuple(name for name in STAGES if name != "branch"),
        shown="all but branch",
        metavar="LIST",
        read=read_stages,
        identity="stages",
    )
    assurance: str | None = _option(
        "What backs a certificate: estimate (the literature's practice), probabilistic (norms hold with a stated "
        "probability) or deterministic (a proof).",
        default="deterministic",
        choices=("estimate", "probabilistic", "deterministic"),
        metavar="KIND",
        identity="assurance",
    )
    semantics: str | None = _option(
        "What a proof speaks of: float32 (every deployed evaluation, that is the network as it is run, sums in any "
        "order, and the network in real numbers) or real (in real numbers alone).",
        default="float32",
        choices=("float32", "real"),
        metavar="NAME",
        identity="semantics",
    )
    radius: bool | None = _option(
        "Also search for the largest radius at which each image is certified, and draw the curve.",
        flag="--radius",
        identity="radius",
    )
    clip_input: bool | None = _option(
        "Claim less: only of changes that leave every pixel in [0, 1], or in --range.",
        default=False,
        shown="",
        flag="--clip-input",
        identity="claim",
    )
    pixel_range: str | None = _option(
        "What a pixel may be.",
        default="0,1",
        flag="--range",
        metavar="LOW,HIGH",
        read=read_range,
        identity="range",
    )
    attack: str | None = _option(
        "targeted (PGD, and after the bounds a path to every class that is still open) or paper (PGD alone, as "
        "published figures have it).",
        default="targeted",
        choices=("targeted", "paper"),
        metavar="KIND",
        identity="attack",
    )

    device: str | None = _run(
        "auto, cpu or cuda.", default="auto", choices=("auto", "cpu", "cuda"), metavar="NAME", identity="device"
    )
    dtype: str | None = _run(
        "float32 or float64.",
        shown="the model's own",
        choices=("float32", "float64"),
        metavar="NAME",
        identity="dtype",
    )
    batch_size: int | None = _run(
        "Images a batch.",
        shown="auto, by network and memory",
        metavar="auto|N",
        least=1,
        read=read_batch_size,
        identity="batch_size",
    )
    seed: int | None = _run(
        "Of attacks and of starting vectors.", default=0, metavar="N", least=0, most=_WHOLE, identity="seed"
    )

    steps: int | None = _expert(
        "PGD steps of eps/4.",
        default=100,
        flag="--attack-steps",
        metavar="N",
        least=1,
        most=_WHOLE,
        identity="attack_steps",
    )
    restarts: int | None = _expert(
        "Random starts of PGD.",
        default=1,
        flag="--attack-restarts",
        metavar="N",
        least=1,
        most=_WHOLE,
        identity="attack_restarts",
    )
    patience: int | None = _expert(
        "Steps without progress after which PGD gives an image up; 0: never.",
        default=15,
        flag="--attack-patience",
        metavar="N",
        least=0,
        most=_WHOLE,
        identity="attack_patience",
    )
    solver: str | None = _expert(
        "What estimates norms: lanczos, or power (the paper's power iteration, far slower).",
        default="lanczos",
        choices=("lanczos", "power"),
        metavar="NAME",
        identity="solver",
    )
    tolerance: float | None = _expert(
        "Where the estimate of a norm stops: what one more iteration changes its vector by.",
        default=0.0001,
        metavar="X",
        least=0,
        above=True,
        most=1,
        below=True,
        identity="tolerance",
    )
    iterations: int | None = _expert(
        "Most iterations for the estimate of a norm; after them the global norm stands in.",
        shown="1000 (power: 5000)",
        flag="--max-iterations",
        metavar="N",
        least=1,
        most=_WHOLE,
        identity="iterations",
    )
    start: str | None = _expert(
        "Where the estimate of a norm starts: unmasked (the whole layer's singular vector, and noise), random, or "
        "saved (the first pass of an image lends its vectors to the second; power only).",
        default="unmasked",
        choices=("unmasked", "random", "saved"),
        metavar="NAME",
        identity="start",
    )
    delta: float | None = _expert(
        "Probability that a probabilistic certificate of one image is wrong.",
        default=1e-9,
        metavar="P",
        least=0,
        above=True,
        most=1,
        below=True,
        identity="delta",
    )
    proof_seconds: float | None = _expert(
        "Budget of an image's deterministic norms, at 10 billion operations a second; what takes more falls back on "
        "the whole layer's norm, of which all may take ten times as much once a network.",
        default=10.0,
        metavar="S",
        least=0,
        above=True,
        identity="proof_seconds",
    )
    branch_seconds: float | None = _expert(
        "Time an image may take in the stage branch.",
        default=10.0,
        metavar="S",
        least=0,
        above=True,
        identity="branch_seconds",
    )
    radius_tolerance: float | None = _expert(
        "How exact --radius is, as a share of the radius.",
        default=0.01,
        metavar="X",
        least=1e-6,
        most=1,
        below=True,
        identity="radius",
    )
    self_check: bool | None = _expert(
        "Skip the attempt to contradict the first batch's bounds with points of its balls.", flag="--no-self-check"
    )

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if value is not None and not (f.name == "eps" and isinstance(value, tuple)):
                object.__setattr__(self, f.name, checked(name_in_words(f), declaration_of(f), kind_of(f), value))
        if isinstance(self.eps, tuple) and not all(isinstance(e, str) for e in self.eps):
            raise InvalidInput("eps: give every radius as text")
        for one, other in _EITHER:
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise InvalidInput(f"--{one.replace('_', '-')} and --{other.replace('_', '-')} exclude each other")

    @staticmethod
    def given(**values: Any) -> Options:
        """The options by their names, each a text as on the command line or a Python value; None for none.

        Raises InvalidInput for a name that no option has, and for values as the class does.
        """
        for name in values:
            if name not in DECLARED:
                raise InvalidInput(f"no option {name[:40]!r}; the options are {', '.join(sorted(DECLARED))}")
        found = {}
        for name, value in values.items():
            read = declaration_of(DECLARED[name]).read
            found[name] = value if read is None or value is None else read(value, name_in_words(DECLARED[name]))
        return Options(**found)

    def filled(self, earlier: Options) -> Options:
        """These options, and where one was not given, the earlier one."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for pair in _EITHER:
            if any(values[name] is not None for name in pair):
                earlier = dataclasses.replace(earlier, **dict.fromkeys(pair))
        return Options(**{k: getattr(earlier, k) if v is None else v for k, v in values.items()})

    def to_json(self) -> dict[str, Any]:
        """The options that were given, as JSON values."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Options:
        """The options that `to_json` wrote. Raises InvalidInput for anything else."""
        return Options.given(**values)


DECLARED: Mapping[str, dataclasses.Field[Any]] = MappingProxyType({f.name: f for f in dataclasses.fields(Options)})
"""The declaration of every option, by its name."""


def default(name: str) -> Any:
    """The default of an option; None where it depends on the model or on other options."""
    return declaration_of(DECLARED[name]).default


def check(name: str, value: Any) -> Any:
    """A value of an option in the type of the option. Raises InvalidInput for one of another type or out of range."""
    f = DECLARED[name]
    return checked(name_in_words(f), declaration_of(f), kind_of(f), value)
