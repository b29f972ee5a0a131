"""A certification from question to results: everything resolved, one batch after the other."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from llcert.bounds import Start
from llcert.certify import (
    FIRST,
    PGD,
    Assurance,
    AttackKind,
    BatchResult,
    Certifier,
    Eps,
    Never,
    Radii,
    Semantics,
    Settings,
    Specification,
    Top,
    Witness,
    batch_size_for,
    check_one_image_fits,
    stated,
)
from llcert.comparison import Agreement, compared
from llcert.data import NAMED, Dataset, Progress, load_dataset, select
from llcert.eps_file import read_radii
from llcert.errors import InvalidInput
from llcert.frontend.adapt import adapt
from llcert.ir import Network, topological
from llcert.machine.memory import free_memory, out_of_memory
from llcert.machine.versions import versions
from llcert.program import lower
from llcert.question import Question, parse_eps, parse_numbers, parse_range
from llcert.region import UNIT, PixelRange
from llcert.report import Subject
from llcert.report.layers import layers
from llcert.spectral import Lanczos, PowerIteration

E = TypeVar("E", bound=enum.Enum)

CHECKED_IMAGES = 8
_NORMALISED = "normalisation: "
_UNTOUCHED = "pixels enter the model as they are; any normalisation is inside it"


@dataclass(frozen=True)
class Job:
    """A certification ready to run. indices: of the chosen images. settled: all of `identity` but the data."""

    certifier: Certifier
    dataset: Dataset
    indices: Sequence[int]
    batch_size: int
    subject: Subject
    settled: dict[str, Any]
    self_check: bool = True

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must agree with, in the order in which differences are told; reads all chosen images."""
        return {**self.settled, "data_sha256": self.dataset.sha256(self.indices)}

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return -(-len(self.indices) // self.batch_size)

    def result(self, number: int, *, self_check: bool = False) -> BatchResult:
        """The result of a batch by its number from 0. self_check: whether to do it, where it is asked for at all.

        Raises Contradiction or NumericalError where a bound is seen to be wrong.
        """
        chosen = self.indices[number * self.batch_size : (number + 1) * self.batch_size]
        (batch,) = self.dataset.batches(chosen, self.batch_size)
        check = self.self_check and self_check
        return self.certifier(batch.images, batch.labels, batch.indices, self_check=check)

    def results(self) -> Iterator[BatchResult]:
        """The results of all batches in order; the self-check is done on the first. Raises as `result` does."""
        for number in range(self.batches):
            yield self.result(number, self_check=number == 0)


def _certifier(
    network: Network, settings: Settings, device: torch.device, dtype: torch.dtype, witness: Witness | None
) -> Certifier:
    proved = settings.assurance is not Assurance.ESTIMATE
    check_one_image_fits(lower(network, device, dtype), network.source or "the network", proved=proved)
    try:
        return Certifier.of(network, settings, device, dtype, witness)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise InvalidInput(
            f"{network.source or 'the network'} does not fit into the memory of {device.type}: "
            f"{free_memory(device) / 2**30:.1f} GiB are free; --assurance estimate needs less"
        ) from None


def prepare(
    network: Network,
    question: Question,
    *,
    model: str = "",
    sha256: str | None = None,
    dataset: Dataset | None = None,
    progress: Progress | None = None,
    self_check: bool = True,
    witness: Witness | None = None,
) -> Job:
    """The job that answers a question about a network; what the question leaves open comes from its metadata.

    model: how the report names it; sha256: of its file. dataset: in place of the one the question names. witness: of
    deterministic proofs. Raises InvalidInput in one line for whatever cannot be answered, UnsupportedModel where the
    network differs from what it was read from by more than rounding.
    """
    question = with_metadata(question, network)
    model = model or network.source or "network"
    settings = settings_of(question, model)
    device, dtype = device_of(question.device), _dtype(question.dtype, network)
    dataset = dataset or _dataset(question, model, progress)
    chosen = select(question.samples, len(dataset))
    settings = replace(settings, eps=_of_chosen(settings.eps, question, dataset, chosen))
    indices = _asked_about(settings.specification, dataset, chosen)
    _check_range(settings, dataset, indices)
    adapted, notes = adapt(network, dataset.image_shape, layout=question.layout, mean=question.mean, std=question.std)
    agreement = compared(adapted, _first_images(dataset, indices)) if adapted.original else None
    if dataset.class_count > network.classes:
        raise InvalidInput(
            f"{model} has {network.classes} outputs, but {dataset.name} has {dataset.class_count} classes"
        )
    certifier = _certifier(adapted, settings, device, dtype, witness)
    proved = settings.assurance is not Assurance.ESTIMATE
    batch_size = question.batch_size or batch_size_for(certifier.program, proved=proved)
    subject = Subject(
        model=model,
        model_sha256=sha256,
        weights_sha256=fingerprint(adapted),
        eps=settings.eps,
        eps_text=question.eps if isinstance(question.eps, str) else question.eps_file or "given",
        data=dataset.name,
        split=dataset.split,
        selection=f"{chosen.start}:{chosen.stop}",
        asked=len(indices),
        classes=network.classes,
        assurance=settings.assurance,
        semantics=settings.semantics,
        delta=settings.delta,
        stages=settings.running,
        attack=settings.attack,
        clippable=not settings.clip_input and settings.pixel_range.covers(*dataset.images.pixel_range_of(indices)),
        layers=layers(certifier.program, certifier.bound),
        global_lipschitz=float(certifier.bound.logit_lipschitz),
        normalisation=_normalisation(notes),
        device=device_name(device),
        dtype=str(dtype).removeprefix("torch."),
        batch_size=batch_size,
        seed=settings.seed,
        versions=versions(),
        parity=agreement.difference if agreement else None,
        notes=(*network.notes, *(n for n in notes if not n.startswith(_NORMALISED)), *_agreed(agreement, dataset)),
        warnings=_warnings(dataset, network, settings),
        specification=settings.specification,
        left_out=len(chosen) - len(indices),
        pixel_range=settings.pixel_range,
        clip_input=settings.clip_input,
    )
    settled = _settled(question, settings, subject, dataset)
    return Job(certifier, dataset, indices, batch_size, subject, settled, self_check)


def with_metadata(question: Question, network: Network) -> Question:
    """The question, its gaps filled with the model's metadata; what was asked wins."""
    known = network.metadata
    mean, std = (
        (parse_numbers(known[k], f"the model's metadata llcert.{k}") if k in known else None) for k in ("mean", "std")
    )
    return question.filled(
        Question(eps=known.get("eps"), data=known.get("data"), layout=known.get("layout"), mean=mean, std=std)
    )


def settings_of(question: Question, model: str) -> Settings:
    """The settings that a question stands for, the defaults where it says nothing. model: what to call it in errors.

    Raises InvalidInput in one line for a value that cannot be used, and where there is no eps.
    """
    if question.eps is None and question.eps_file is None:
        raise InvalidInput(
            f"{model} names no eps{'' if question.data else ' and no data'}: give --eps, an L2 radius in pixel units "
            f"such as 36/255{'' if question.data else f', and --data ({_choices()})'}"
        )
    base = Settings(eps=_eps(question))
    for name, value, least in (
        ("seed", question.seed, 0),
        ("attack steps", question.steps, 1),
        ("attack restarts", question.restarts, 1),
        ("attack patience", question.patience, 0),
        ("iterations", question.iterations, 1),
    ):
        if value is not None and not least <= value < 2**31:
            raise InvalidInput(f"{name} must be a whole number from {least} to {2**31 - 1}, not {value}")
    pixels = UNIT if question.pixel_range is None else PixelRange.of(*parse_range(question.pixel_range))
    if question.tolerance is not None and not 0 < question.tolerance < 1:
        raise InvalidInput(f"the tolerance of estimated norms must lie between 0 and 1, not {question.tolerance}")
    return replace(
        base,
        stages=base.stages if question.stages is None else question.stages,
        assurance=_choice(question.assurance, Assurance, "assurance", base.assurance),
        semantics=_choice(question.semantics, Semantics, "semantics", base.semantics),
        delta=base.delta if question.delta is None else question.delta,
        proof_seconds=base.proof_seconds if question.proof_seconds is None else question.proof_seconds,
        branch_seconds=base.branch_seconds if question.branch_seconds is None else question.branch_seconds,
        radius=_tolerance(question),
        clip_input=bool(question.clip_input),
        pixel_range=pixels,
        seed=question.seed or 0,
        attack=_choice(question.attack, AttackKind, "attack", base.attack),
        pgd=_pgd(question),
        solver=_solver(question),
        start=_choice(question.start, Start, "start", base.start),
        specification=_specification(question),
    )


def _pgd(question: Question) -> PGD:
    """One path of an attack."""
    base = PGD()
    return replace(
        base,
        steps=question.steps or base.steps,
        restarts=question.restarts or base.restarts,
        patience=base.patience if question.patience is None else question.patience,
    )


def _solver(question: Question) -> Lanczos | PowerIteration:
    """What estimates norms."""
    known: dict[str | None, Lanczos | PowerIteration] = {
        None: Lanczos(),
        "lanczos": Lanczos(),
        "power": PowerIteration(),
    }
    if question.solver not in known:
        raise InvalidInput(f"solver {str(question.solver)[:40]!r}: choose lanczos or power")
    solver = known[question.solver]
    return replace(solver, tolerance=question.tolerance or solver.tolerance, cap=question.iterations or solver.cap)


def _eps(question: Question) -> Eps:
    """The radius, or the radii of the images from the first one on."""
    if isinstance(question.eps, str):
        return parse_eps(question.eps)
    texts = read_radii(Path(question.eps_file)) if question.eps_file is not None else question.eps or ()
    return Radii(tuple(parse_eps(text) for text in texts), tuple(texts))


def _of_chosen(eps: Eps, question: Question, dataset: Dataset, chosen: range) -> Eps:
    """The radii of the chosen images, of which there are as many as of these, or as of all images."""
    if not isinstance(eps, Radii):
        return eps
    if len(eps.values) == len(dataset):
        return eps.part(chosen.start, chosen.stop)
    if len(eps.values) == len(chosen):
        return replace(eps, first=chosen.start)
    raise InvalidInput(
        f"{question.eps_file or 'eps'}: holds {len(eps.values)} radii; {dataset.name} holds {len(dataset)} images"
        f"{'' if len(chosen) == len(dataset) else f', of which {len(chosen)} are chosen'}"
    )


def _specification(question: Question) -> Specification:
    if question.target is not None:
        return Never(question.target)
    return FIRST if question.top is None else Top(question.top)


def _asked_about(specification: Specification, dataset: Dataset, chosen: range) -> Sequence[int]:
    """The chosen images of which the claim is asked."""
    found = [i for i in chosen if specification.asks(int(dataset.labels[i]))]
    if not found:
        raise InvalidInput(f"{specification.name}: every chosen image has that label, so there is none to ask about")
    return chosen if len(found) == len(chosen) else tuple(found)


def _tolerance(question: Question) -> float | None:
    """Of a search for radii; None where none is asked for."""
    if not question.radius:
        if question.radius_tolerance is not None:
            raise InvalidInput("--radius-tolerance says how exact --radius is; give that too")
        return None
    return 0.01 if question.radius_tolerance is None else question.radius_tolerance


def _choice(text: str | None, kind: type[E], name: str, default: E) -> E:
    if text is None:
        return default
    try:
        return kind(text)
    except ValueError:
        raise InvalidInput(f"{name} {text[:40]!r}: choose {', '.join(str(m.value) for m in kind)}") from None


def _choices() -> str:
    return f"{', '.join(NAMED)}, or a path"


def _dataset(question: Question, model: str, progress: Progress | None) -> Dataset:
    if question.data is None:
        raise InvalidInput(f"{model} names no data: give --data ({_choices()})")
    root = None if question.data_root is None else Path(question.data_root)
    return load_dataset(question.data, split=question.split or "test", root=root, progress=progress)


def _first_images(dataset: Dataset, indices: Sequence[int]) -> Tensor:
    (batch,) = dataset.batches(indices[:CHECKED_IMAGES], CHECKED_IMAGES)
    return batch.images


def device_of(text: str | None) -> torch.device:
    """The device of that name; auto, or None, is CUDA where there is any. InvalidInput where it is not to be had."""
    match text:
        case None | "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        case "cuda" if not torch.cuda.is_available():
            raise InvalidInput("device cuda: torch finds no CUDA device here; use --device cpu")
        case "cpu" | "cuda":
            return torch.device(text)
    raise InvalidInput(f"device {text[:40]!r}: choose auto, cpu or cuda")


def device_name(device: torch.device) -> str:
    """What a report calls a device."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def _dtype(text: str | None, network: Network) -> torch.dtype:
    known = {None: network.dtype, "float32": torch.float32, "float64": torch.float64}
    if text not in known:
        raise InvalidInput(f"dtype {str(text)[:40]!r}: choose float32 or float64")
    return known[text]


def _normalisation(notes: tuple[str, ...]) -> str:
    """What happens to pixels in front of the model, the adaptation's own words where it does anything."""
    own = next((note for note in notes if note.startswith(_NORMALISED)), None)
    return own.removeprefix(_NORMALISED) if own else _UNTOUCHED


def _agreed(agreement: Agreement | None, dataset: Dataset) -> tuple[str, ...]:
    if agreement is None:
        return ()
    return (f"on {agreement.inputs} images of {dataset.name} it agrees to {agreement.difference:.1e}",)


def _check_range(settings: Settings, dataset: Dataset, indices: Sequence[int]) -> None:
    """Raises InvalidInput where claims are restricted to a range of pixels that an image leaves."""
    within = settings.within
    if within is None:
        return
    low, high = dataset.images.pixel_range_of(indices)
    if not within.covers(low, high):
        raise InvalidInput(
            f"--clip-input: pixels of {dataset.name} run from {low:.6g} to {high:.6g}, outside {within.words}; "
            "give --range LOW,HIGH, what a pixel of this data may be"
        )


def _warnings(dataset: Dataset, network: Network, settings: Settings) -> tuple[str, ...]:
    found = []
    low, high = dataset.pixel_range
    known = settings.pixel_range
    if not known.covers(low, high):
        found.append(
            f"pixels run from {low:.3g} to {high:.3g}, outside {known.words}: if they are normalised already, eps is "
            "measured in normalised units, not in pixels"
        )
    if dataset.class_count < network.classes and dataset.name in NAMED:
        found.append(f"the network has {network.classes} outputs, {dataset.name} has {dataset.class_count} classes")
    found += [note for note in network.notes if note.startswith("final ")]
    return tuple(found)


def _settled(question: Question, settings: Settings, subject: Subject, dataset: Dataset) -> dict[str, Any]:
    """What must be the same for a run to be continued, but the data themselves."""
    return {
        "eps": None if isinstance(settings.eps, Radii) else settings.eps,
        "radii_sha256": _radii_sha256(settings.eps),
        "claim": stated(settings.specification, settings.within),
        "data": dataset.name,
        "split": dataset.split,
        "samples": subject.selection,
        "stages": list(settings.stages),
        "assurance": settings.assurance.value,
        "semantics": settings.semantics.value,
        "delta": settings.delta,
        "proof_seconds": settings.proof_seconds,
        "branch_seconds": settings.branch_seconds,
        "radius": settings.radius,
        "mean": list(question.mean or ()),
        "std": list(question.std or ()),
        "layout": question.layout,
        "range": list(settings.pixel_range.texts),
        "seed": settings.seed,
        "attack": settings.attack.value,
        "attack_steps": settings.pgd.steps,
        "attack_restarts": settings.pgd.restarts,
        "attack_patience": settings.pgd.patience,
        "solver": type(settings.solver).__name__,
        "tolerance": settings.solver.tolerance,
        "iterations": settings.solver.cap,
        "start": settings.start.value,
        "batch_size": subject.batch_size,
        "device": subject.device,
        "versions": dict(subject.versions),
        "dtype": subject.dtype,
        "model_sha256": subject.model_sha256,
        "weights_sha256": subject.weights_sha256,
    }


def _radii_sha256(eps: Eps) -> str | None:
    """Of the radii as they were written; None for one that all images share."""
    return hashlib.sha256("\n".join(eps.texts).encode()).hexdigest() if isinstance(eps, Radii) else None


def fingerprint(network: Network) -> str:
    """SHA-256 of what a network computes: operators, shapes, parameters, and how they hang together."""
    order = topological(network.output)
    position = {node: i for i, node in enumerate(order)}
    digest = hashlib.sha256()
    for node in order:
        plain = {f.name: getattr(node.op, f.name) for f in fields(node.op)}  # type: ignore[arg-type]
        tensors = node.op.tensors()
        rest = [(k, v) for k, v in plain.items() if k not in tensors]
        digest.update(repr((type(node.op).__name__, node.shape, [position[i] for i in node.inputs], rest)).encode())
        for name, tensor in tensors.items():
            digest.update(repr((name, tuple(tensor.shape), tensor.dtype)).encode())
            digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()
