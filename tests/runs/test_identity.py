"""The identity of a run: every option that changes results is in it, under the key that runs on disk have."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from llcert.api import images_and_labels
from llcert.ir import Input, Network, apply
from llcert.ops import Linear, relu
from llcert.options import Options
from llcert.options.certification import DECLARED
from llcert.options.declaration import declaration_of
from llcert.runs.identity import OF_FACTS, OF_OPTIONS, fingerprint
from llcert.runs.prepare import prepare

DATA = images_and_labels(torch.rand(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3)
KEYS = """eps radii_sha256 claim data split samples stages assurance semantics delta proof_seconds branch_seconds radius
mean std layout range seed attack attack_steps attack_restarts attack_patience solver tolerance iterations start
batch_size device versions dtype model_sha256 weights_sha256 data_sha256"""
"""Those of every run that was written so far."""
OTHER: dict[str, Any] = {
    "eps": "0.2",
    "eps_file": None,  # reads a file
    "target": 2,
    "top": 2,
    "data": None,  # another data set is another `dataset` here
    "split": None,
    "samples": "3",
    "mean": (0.5,),
    "std": (0.5,),
    "layout": "flat",
    "stages": ("global",),
    "assurance": "probabilistic",
    "semantics": "real",
    "radius": True,
    "clip_input": True,
    "pixel_range": "0,2",
    "attack": "paper",
    "device": None,  # there is one
    "dtype": "float64",
    "batch_size": 2,
    "seed": 1,
    "steps": 7,
    "restarts": 2,
    "patience": 0,
    "solver": "power",
    "tolerance": 0.01,
    "iterations": 9,
    "start": "random",
    "delta": 0.5,
    "proof_seconds": 1.0,
    "branch_seconds": 1.0,
}


def network(scale: float = 1.0) -> Network:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(*s, generator=generator) for s in ((6, 4), (3, 6)))
    return Network(apply(Linear(second), apply(relu(), apply(Linear(scale * first), apply(Input((4,)))))))


def identity(**options: Any) -> dict[str, Any]:
    given = Options(**{"eps": "0.1", "assurance": "estimate", **options})
    found: dict[str, Any] = json.loads(json.dumps(prepare(network(), given, dataset=DATA).identity))
    return found


def test_keys_are_those_of_runs_on_disk() -> None:
    assert identity().keys() == set(KEYS.split())
    assert {*OF_OPTIONS, *OF_FACTS, "data_sha256"} == set(KEYS.split())


def test_options_without_a_key_change_no_result() -> None:
    without = {name for name, f in DECLARED.items() if declaration_of(f).identity is None}
    assert without == {"data_root", "self_check"}
    assert OTHER.keys() | {"radius_tolerance"} | without == DECLARED.keys()


@pytest.mark.parametrize("name", [name for name, value in OTHER.items() if value is not None])
def test_another_value_is_another_run(name: str) -> None:
    key = declaration_of(DECLARED[name]).identity
    one, two = identity(), identity(**{name: OTHER[name]})
    changed = {k for k in one if one[k] != two[k]}
    assert key in changed
    assert changed <= {key, "claim", "iterations", "weights_sha256", "data_sha256"}


def test_how_exact_a_radius_is_counts() -> None:
    assert identity(radius=True)["radius"] == 0.01
    assert identity(radius=True, radius_tolerance=0.1)["radius"] == 0.1


def test_fingerprints_tell_networks_apart() -> None:
    assert fingerprint(network()) == fingerprint(network())
    assert fingerprint(network()) != fingerprint(network(scale=1.001))
