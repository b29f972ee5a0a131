"""Certificates of networks in memory, as `llcert certify --proof` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from random_graphs import in_format
from torch import Tensor

from llcert.certificate_writer import CertificateGraph, ImageEvidence, checkable, evidence_of, open_folder
from llcert.certification import Certifier, Semantics, Settings
from llcert.ir import Network
from llcert.program import lower


def single(network: Network) -> Network:
    """The same network in float32."""
    return in_format(network, torch.float32)


def evidence(
    network: Network, settings: Settings, images: Tensor, labels: Tensor
) -> tuple[CertificateGraph, dict[int, ImageEvidence]]:
    """The network as a certificate has it, and the evidence of what is proved of these images."""
    deployed = settings.semantics is Semantics.DEPLOYED
    graph = CertificateGraph.of(lower(network, dtype=torch.float64), deployed=deployed)
    certifier = Certifier.of(network, settings, dtype=network.dtype, checkable=checkable(graph))
    result = certifier(images, labels, torch.arange(len(images)))
    return graph, evidence_of(graph, result.proofs)


def certified(
    network: Network,
    images: Tensor,
    eps: str,
    folder: Path,
    *,
    stages: tuple[str, ...] = ("global", "local", "crown-ball"),
    semantics: Semantics = Semantics.DEPLOYED,
    labels: Tensor | None = None,
) -> int:
    """Writes the certificate of those images that are certified; how many these are. labels: the network's own."""
    images = images.to(network.dtype)
    labels = network(images).argmax(1) if labels is None else labels
    settings = Settings(float(eps), stages=stages, semantics=semantics)
    graph, found = evidence(network, settings, images, labels)
    target = open_folder(folder, resume=False, overwrite=False)
    target.begin(graph, eps=eps, semantics=semantics.value, about={"model": {}, "source": {}})
    for index, one in sorted(found.items()):
        target.add(index, one)
    target.commit()
    return len(found)


def certificate_json(folder: Path) -> dict[str, Any]:
    """The content of certificate.json."""
    return dict(json.loads((folder / "certificate.json").read_text()))
