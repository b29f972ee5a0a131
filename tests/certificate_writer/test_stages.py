"""Evidence of every stage: what it certifies with --proof is what it certifies without, and the checker accepts it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from certificates import evidence
from seeds import seeds

from llcert.certificate_writer import open_folder
from llcert.certification import Certifier, Semantics, Settings, Verdict
from llcert.checker import check
from llcert.ir import Activation, Input, Network, apply
from llcert.ops import Clamp, Leaky, Linear, MaxMin, relu

PHIS = (
    relu(),
    MaxMin(),
    Clamp(torch.tensor(0.0), torch.tensor(0.8)),
    Leaky(torch.tensor(0.1)),
    MaxMin(0, True, torch.tensor(0.7), torch.tensor(-0.7)),
)


def network(seed: int, phi: Activation) -> Network:
    generator = torch.Generator().manual_seed(seed)
    node = apply(Input((4,)))
    for before, after in ((4, 12), (12, 12), (12, 12)):
        weight = torch.randn(after, before, generator=generator) / before**0.5 * 1.3
        node = apply(phi, apply(Linear(weight, torch.randn(after, generator=generator) / 3), node))
    weight = torch.randn(3, 12, generator=generator) / 12**0.5
    return Network(apply(Linear(weight, torch.randn(3, generator=generator) / 3), node))


def arrays(seed: int, settings: Settings, folder: Path) -> list[set[str]]:
    """The names of the arrays of each image that is certified, all of them accepted by the checker."""
    found = network(seed, PHIS[seed % len(PHIS)])
    images = torch.rand(6, 4, generator=torch.Generator().manual_seed(seed))
    labels = found(images).argmax(1)
    graph, kept = evidence(found, settings, images, labels)
    target = open_folder(folder, resume=False, overwrite=False)
    eps, about = str(settings.eps), {"model": {}, "source": {}}
    target.begin(graph, eps=eps, semantics=settings.semantics.value, about=about, within=settings.within)
    for index, one in sorted(kept.items()):
        target.add(index, one)
    target.commit()
    results = list(check(folder))
    assert [r.reason for r in results if not r.accepted] == []
    assert all(one.margin > 0 for one in kept.values())
    assert len(results) == len(kept)
    return [set(one.arrays) for one in kept.values()]


def asked(seed: int, *stages: str) -> Settings:
    semantics = list(Semantics)[seed % 2]
    eps = (0.1, 0.2, 0.35)[seed % 3]
    return Settings(eps, stages=stages, semantics=semantics, clip_input=seed % 4 == 3, branch_seconds=3.0)


@pytest.mark.parametrize("seed", seeds(5, 30))
def test_intermediate_bounds(seed: int, tmp_path: Path) -> None:
    names = arrays(seed, asked(seed, "crown-ball-intermediate"), tmp_path)
    sorting = isinstance(PHIS[seed % len(PHIS)], MaxMin)  # rows pass no sort
    assert all(any(name.endswith(".rows") for name in one) != sorting for one in names)


@pytest.mark.parametrize("seed", seeds(5, 30))
def test_branch_covers(seed: int, tmp_path: Path) -> None:
    arrays(seed, asked(seed, "branch"), tmp_path)


def test_a_cover_of_many_parts(tmp_path: Path) -> None:
    """At a radius that the backward pass alone does not reach."""
    names = arrays(5, replace(asked(5, "branch"), branch_seconds=60.0), tmp_path)
    assert any(name.endswith(".tree") for one in names for name in one)


@pytest.mark.parametrize("seed", seeds(3, 10))
def test_no_image_is_lost_for_its_evidence(seed: int) -> None:
    found, settings = network(seed, PHIS[seed % len(PHIS)]), replace(asked(seed, "local", "crown-ball-intermediate"))
    images = torch.rand(6, 4, generator=torch.Generator().manual_seed(seed))
    labels = found(images).argmax(1)
    plain = Certifier.of(found, settings)(images, labels, torch.arange(6)).samples
    _, kept = evidence(found, settings, images, labels)
    assert set(kept) == {s.index for s in plain if s.verdict is Verdict.CERTIFIED}
