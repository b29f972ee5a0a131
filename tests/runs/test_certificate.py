"""The certificate of a run states what was asked of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llcert.api import images_and_labels
from llcert.checker import check
from llcert.errors import InvalidInput
from llcert.ir import Input, Network, apply
from llcert.ops import Linear, relu
from llcert.options import Options
from llcert.runs.certificate import RunCertificate
from llcert.runs.identity import OF_OPTIONS
from llcert.runs.prepare import prepare
from llcert.runs.run import Run

OPTIONS = Options(eps="0.001", seed=3, stages=("global", "local"))


def test_a_certificate_states_every_option_that_changes_results(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(*s, generator=generator) for s in ((6, 4), (3, 6)))
    network = Network(apply(Linear(second), apply(relu(), apply(Linear(first), apply(Input((4,)))))))
    images = torch.rand(4, 4, generator=generator)
    job = prepare(network, OPTIONS, dataset=images_and_labels(images, network(images).argmax(1)), proof=True)
    with Run(job, OPTIONS, certificate=RunCertificate.open(tmp_path, OPTIONS, resume=False, overwrite=False)) as run:
        list(run.results())
    written = json.loads((tmp_path / "certificate.json").read_text())
    assert (written["settings"]["seed"], written["settings"]["stages"]) == (3, ["global", "local"])
    stated = {"eps", "radii_sha256", "claim", "semantics", "data", "split", "samples"}
    assert written["settings"].keys() | stated == set(OF_OPTIONS)
    assert all(result.accepted for result in check(tmp_path))


def test_an_estimate_has_no_certificate(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--proof needs --assurance deterministic"):
        RunCertificate.open(tmp_path, Options(assurance="estimate"), resume=False, overwrite=False)
