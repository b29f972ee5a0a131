"""A certification that is ready to run: from a network and options to a certifier, images and the facts of a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from llcert.certificate_writer import CertificateGraph, checkable, evidence_of
from llcert.certification import (
    Assurance,
    BatchResult,
    Certifier,
    Settings,
    batch_size_for,
    check_one_image_fits,
)
from llcert.data import NAMED, Dataset
from llcert.errors import InvalidInput
from llcert.frontend.adapt import adapt
from llcert.frontend.comparison import Agreement, compared
from llcert.ir import Network
from llcert.machine.memory import free_memory, out_of_memory
from llcert.machine.versions import versions
from llcert.options import Options
from llcert.program import lower
from llcert.reporting import Subject
from llcert.reporting.layers import layers
from llcert.runs.identity import fingerprint, identity_of
from llcert.runs.records import BatchOutcome
from llcert.runs.resolve import data_of, device_name, device_of, dtype_of, settings_of, with_metadata
from llcert.runs.selection import Selection, select_images

_CHECKED_IMAGES = 8
_NORMALISED = "normalisation: "
_UNTOUCHED = "pixels enter the model as they are; any normalisation is inside it"


@dataclass(frozen=True)
class Certification:
    """A certifier and the images it certifies, ready to run. Make one with `prepare`.

    indices: of the images in the data set. subject: what a report says of all this. resolved: all of `identity` but the
    data. self_check: whether the bounds of one batch are checked. graph: the network as a certificate folder has it,
    where evidence is kept.
    """

    certifier: Certifier
    dataset: Dataset
    indices: Sequence[int]
    batch_size: int
    subject: Subject
    resolved: dict[str, Any]
    self_check: bool = True
    graph: CertificateGraph | None = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The values that a resumed run must agree with, in the order in which differences are reported.

        Reads all images.
        """
        return {**self.resolved, "data_sha256": self.dataset.sha256(self.indices)}

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return -(-len(self.indices) // self.batch_size)

    def result(self, number: int, *, checked: int = 0) -> BatchOutcome:
        """The result of a batch by its number from 0. checked: the number of the batch whose bounds are self-checked.

        Raises Contradiction or NumericalError where a bound is seen to be wrong.
        """
        chosen = self.indices[number * self.batch_size : (number + 1) * self.batch_size]
        (batch,) = self.dataset.batches(chosen, self.batch_size)
        check = self.self_check and number == checked
        result = self.certifier(batch.images, batch.labels, batch.indices, self_check=check)
        evidence = {} if self.graph is None else evidence_of(self.graph, result.proofs)
        return BatchOutcome(replace(result, proofs=()), evidence)

    def results(self) -> Iterator[BatchResult]:
        """The results of all batches in order. Raises as `result` does."""
        for number in range(self.batches):
            yield self.result(number).result


@dataclass(frozen=True)
class _Model:
    """A network as it is certified, with its normalisation in front.

    name: in reports; sha256: of its file. notes: on layout and normalisation. agreement: with the file or module it was
    read from; None where it was made here.
    """

    network: Network
    name: str
    sha256: str | None
    notes: tuple[str, ...]
    agreement: Agreement | None


def prepare(
    network: Network,
    options: Options,
    *,
    model: str = "",
    sha256: str | None = None,
    dataset: Dataset | None = None,
    proof: bool = False,
) -> Certification:
    """The certification of a network with these options; what they leave open comes from its metadata.

    model: how the report names it; sha256: of its file. dataset: in place of the one the options name. proof: whether
    evidence of deterministic proofs is kept. Raises InvalidInput in one line for whatever cannot be done,
    UnsupportedModel where the network differs from what it was read from by more than rounding.
    """
    options = with_metadata(options, network)
    model = model or network.source or "network"
    settings = settings_of(options, model)
    device, dtype = device_of(options.device), dtype_of(options.dtype, network)
    selection = select_images(options, settings, dataset or data_of(options, model))
    dataset, settings = selection.dataset, selection.settings
    adapted, notes = adapt(network, dataset.image_shape, layout=options.layout, mean=options.mean, std=options.std)
    described = _Model(adapted, model, sha256, notes, _agreement(adapted, selection))
    if dataset.class_count > network.classes:
        raise InvalidInput(
            f"{model} has {network.classes} outputs, but {dataset.name} has {dataset.class_count} classes"
        )
    certifier, graph = _certifier(adapted, settings, device, dtype, proof=proof)
    fitting = batch_size_for(certifier.program, proved=_proved(settings), evidence=proof)
    batch_size = options.batch_size or fitting
    subject = _subject(described, options, selection, certifier, batch_size, proof=proof)
    identity = identity_of(options, settings, subject)
    check = options.self_check is not False
    return Certification(certifier, dataset, selection.indices, batch_size, subject, identity, check, graph)


def _subject(
    model: _Model, options: Options, selection: Selection, certifier: Certifier, batch_size: int, *, proof: bool
) -> Subject:
    network, dataset, program = model.network, selection.dataset, certifier.program
    notes = (n for n in model.notes if not n.startswith(_NORMALISED))
    return Subject(
        model=model.name,
        model_sha256=model.sha256,
        weights_sha256=fingerprint(network),
        settings=selection.settings,
        eps_text=options.eps if isinstance(options.eps, str) else options.eps_file or "given",
        data=dataset.name,
        split=dataset.split,
        selection=selection.text,
        asked=len(selection.indices),
        classes=network.classes,
        clippable=_clippable(selection),
        layers=layers(program, certifier.global_bound),
        global_lipschitz=float(certifier.global_bound.logit_lipschitz),
        normalisation=_normalisation(model.notes),
        device=device_name(program.device),
        dtype=str(program.dtype).removeprefix("torch."),
        batch_size=batch_size,
        versions=versions(),
        parity=model.agreement.difference if model.agreement else None,
        notes=(*network.notes, *notes, *_agreed(model.agreement, dataset), *_limits(certifier, proof=proof)),
        warnings=_warnings(dataset, network, selection.settings),
        left_out=selection.left_out,
    )


def _proved(settings: Settings) -> bool:
    return settings.assurance is not Assurance.ESTIMATE


def _agreement(network: Network, selection: Selection) -> Agreement | None:
    """How far the network and its file or module agree on the first images; None where it was made here."""
    if not network.original:
        return None
    (first,) = selection.dataset.batches(selection.indices[:_CHECKED_IMAGES], _CHECKED_IMAGES)
    return compared(network, first.images)


def _clippable(selection: Selection) -> bool:
    """Whether --clip-input would claim less."""
    settings = selection.settings
    covered = settings.pixel_range.covers(*selection.dataset.images.pixel_range_of(selection.indices))
    return not settings.clip_input and covered


def _certifier(
    network: Network, settings: Settings, device: torch.device, dtype: torch.dtype, *, proof: bool
) -> tuple[Certifier, CertificateGraph | None]:
    """The certifier, and the network as a certificate folder has it, where evidence is kept."""
    source = network.source or "the network"
    check_one_image_fits(lower(network, device, dtype), source, proved=_proved(settings), evidence=proof)
    try:
        if not proof:
            return Certifier.of(network, settings, device, dtype), None
        graph = CertificateGraph.of(lower(network, device, torch.float64), deployed=settings.deployed)
        return Certifier.of(network, settings, device, dtype, checkable(graph)), graph
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise InvalidInput(
            f"{network.source or 'the network'} does not fit into the memory of {device.type}: "
            f"{free_memory(device) / 2**30:.1f} GiB are free; --assurance estimate needs less"
        ) from None


def _normalisation(notes: tuple[str, ...]) -> str:
    """The normalisation in front of the model, in one sentence."""
    normalised = next((note for note in notes if note.startswith(_NORMALISED)), None)
    return normalised.removeprefix(_NORMALISED) if normalised else _UNTOUCHED


def _agreed(agreement: Agreement | None, dataset: Dataset) -> tuple[str, ...]:
    if agreement is None:
        return ()
    return (f"on {agreement.inputs} images of {dataset.name} it agrees to {agreement.difference:.1e}",)


def _limits(certifier: Certifier, *, proof: bool) -> Iterator[str]:
    """Notes on what cannot be done: intermediate bounds where no block can have any, evidence of LipLT."""
    if "crown-ball-intermediate" in certifier.settings.stages and not certifier.estimator.colorings.by_block:
        yield (
            "the stage crown-ball-intermediate does not apply and decides nothing: no activation behind the first "
            "has only entrywise, piecewise linear ones below it, or layers are too wide"
        )
    if proof and certifier.global_bound.pairs is not None:
        yield "--proof holds no evidence of LipLT: images that it alone would certify go on to the stages behind global"


def _warnings(dataset: Dataset, network: Network, settings: Settings) -> tuple[str, ...]:
    found = []
    low, high = dataset.pixel_range
    allowed = settings.pixel_range
    if not allowed.covers(low, high):
        found.append(
            f"pixels run from {low:.3g} to {high:.3g}, outside {allowed.words}: if they are normalised already, eps is "
            "measured in normalised units, not in pixels"
        )
    if dataset.class_count < network.classes and dataset.name in NAMED:
        found.append(f"the network has {network.classes} outputs, {dataset.name} has {dataset.class_count} classes")
    found += [note for note in network.notes if note.startswith("final ")]
    return tuple(found)
