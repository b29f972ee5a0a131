"""Resolves options to settings: defaults, the model's metadata, data sets, devices and number formats."""

from __future__ import annotations

import enum
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch

from llcert.certification import FIRST, PGD, Eps, Never, Radii, Settings, Specification, Top
from llcert.data import NAMED, Dataset, Progress, load_dataset
from llcert.domain.pixel_range import PixelRange
from llcert.errors import InvalidInput
from llcert.ir import Network
from llcert.options import Options, default
from llcert.options.text import parse_eps, parse_numbers, parse_range
from llcert.runs.radii_file import read_radii
from llcert.spectral import Lanczos, PowerIteration

_SOLVERS = {"lanczos": Lanczos, "power": PowerIteration}


def with_metadata(options: Options, network: Network) -> Options:
    """The options, with what they leave open taken from the model's metadata."""
    metadata = network.metadata
    mean, std = (
        (parse_numbers(metadata[k], f"the model's metadata llcert.{k}") if k in metadata else None)
        for k in ("mean", "std")
    )
    return options.filled(
        Options(eps=metadata.get("eps"), data=metadata.get("data"), layout=metadata.get("layout"), mean=mean, std=std)
    )


def settings_of(options: Options, model: str) -> Settings:
    """The settings of a certification with these options. model: its name, for messages.

    A field of `Settings` has the value of the option of its name, unless it is listed here. Raises InvalidInput in one
    line for a value that cannot be used, and where there is no eps.
    """
    if options.eps is None and options.eps_file is None:
        raise InvalidInput(
            f"{model} names no eps{'' if options.data else ' and no data'}: give --eps, an L2 radius in pixel units "
            f"such as 36/255{'' if options.data else f', and --data ({_choices()})'}"
        )
    kinds = get_type_hints(Settings)
    resolved: dict[str, Any] = {
        "eps": _eps(options),
        "radius_tolerance": _radius_tolerance(options),
        "pixel_range": PixelRange.of(*parse_range(_given(options, "pixel_range"))),
        "specification": _specification(options),
        "pgd": PGD(**{name: _given(options, name) for name in ("steps", "restarts", "patience")}),
        "solver": _solver(options),
    }
    for f in fields(Settings):
        if f.name not in resolved and hasattr(options, f.name):
            value = _given(options, f.name)
            kind = kinds[f.name]
            resolved[f.name] = kind(value) if isinstance(kind, type) and issubclass(kind, enum.Enum) else value
    return Settings(**resolved)


def _given(options: Options, name: str) -> Any:
    """The value of an option, its default where it was not given."""
    value = getattr(options, name)
    return default(name) if value is None else value


def _solver(options: Options) -> Lanczos | PowerIteration:
    """The solver of estimated norms, with its own limit of iterations where none was given."""
    solver = _SOLVERS[_given(options, "solver")](tolerance=_given(options, "tolerance"))
    return solver if options.iterations is None else replace(solver, cap=options.iterations)


def _eps(options: Options) -> Eps:
    """The radius, or the radii of the images from the first one on."""
    if isinstance(options.eps, str):
        return parse_eps(options.eps)
    texts = read_radii(Path(options.eps_file)) if options.eps_file is not None else options.eps or ()
    return Radii(tuple(parse_eps(text) for text in texts), tuple(texts))


def _specification(options: Options) -> Specification:
    if options.target is not None:
        return Never(options.target)
    return FIRST if options.top is None else Top(options.top)


def _radius_tolerance(options: Options) -> float | None:
    """The tolerance of the search for radii; None where no search is asked for."""
    if not options.radius:
        if options.radius_tolerance is not None:
            raise InvalidInput("--radius-tolerance says how exact --radius is; give that too")
        return None
    tolerance: float = _given(options, "radius_tolerance")
    return tolerance


def data_of(options: Options, model: str, progress: Progress | None = None) -> Dataset:
    """The data set that the options name, the model's metadata included. progress: see `load_dataset`."""
    if options.data is None:
        raise InvalidInput(f"{model} names no data: give --data ({_choices()})")
    root = None if options.data_root is None else Path(options.data_root)
    return load_dataset(options.data, split=_given(options, "split"), root=root, progress=progress)


def _choices() -> str:
    return f"{', '.join(NAMED)}, or a path"


def device_of(text: str | None) -> torch.device:
    """The device of a name; auto and None mean CUDA where there is any. InvalidInput for one that is not there."""
    match text:
        case None | "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        case "cuda" if not torch.cuda.is_available():
            raise InvalidInput("device cuda: torch finds no CUDA device here; use --device cpu")
        case "cpu" | "cuda":
            return torch.device(text)
    raise InvalidInput(f"device {text[:40]!r}: choose auto, cpu or cuda")


def device_name(device: torch.device) -> str:
    """The name of a device in reports."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def dtype_of(text: str | None, network: Network) -> torch.dtype:
    """The number format of estimates: by name, or the network's own for None."""
    formats = {None: network.dtype, "float32": torch.float32, "float64": torch.float64}
    if text not in formats:
        raise InvalidInput(f"dtype {str(text)[:40]!r}: choose float32 or float64")
    return formats[text]
