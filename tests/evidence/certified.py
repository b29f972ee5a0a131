"""Certificates of networks in memory, as `llcert certify --proof` writes them."""

from __future__ import annotations

from pathlib import Path

import torch
from random_graphs import in_format
from torch import Tensor

from llcert.certify import Certifier, Semantics, Settings
from llcert.evidence import Recorder, open_folder
from llcert.ir import Network


def single(network: Network) -> Network:
    """The same network in float32."""
    return in_format(network, torch.float32)


def certified(
    network: Network,
    images: Tensor,
    eps: str,
    folder: Path,
    *,
    stages: tuple[str, ...] = ("global", "local", "crown-ball"),
    semantics: Semantics = Semantics.FLOAT32,
    labels: Tensor | None = None,
) -> int:
    """Writes the certificate of those images that are certified; how many these are. labels: the network's own."""
    recorder = Recorder()
    settings = Settings(float(eps), stages=stages, semantics=semantics)
    certifier = Certifier.of(network, settings, dtype=network.dtype, witness=recorder)
    images = images.to(network.dtype)
    labels = network(images).argmax(1) if labels is None else labels
    certifier(images, labels, torch.arange(len(images)))
    assert recorder.canonical is not None
    target = open_folder(folder, resume=False, overwrite=False)
    semantics = Semantics.FLOAT32 if recorder.single else Semantics.REAL
    target.begin(recorder.canonical, eps=eps, semantics=semantics.value, about={"model": {}, "source": {}})
    for index, evidence in sorted(recorder.found.items()):
        target.add(index, evidence)
    target.commit()
    return len(recorder.found)
