"""Stages whose certificates are proved: their hints are declared, and the probability of an error counts them all."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from batches import batch_of, decided
from torch import Tensor

from llcert.bounds import RowWeighting
from llcert.certification import Assurance, Batch, BoundsSoFar, Certifier, Finding, Settings, Verdict
from llcert.certification.proof.hint import ProofHint
from llcert.certification.proof.proved_stage import ProvedStage
from llcert.certification.radius_search import HINTS
from llcert.certification.stages.build import CERTIFYING
from llcert.ir import Activation, Input, Network, apply
from llcert.ops import Linear, MaxMin, relu
from llcert.options import STAGES
from llcert.program import Program
from llcert.spectral import Masked, Norm, RandomLanczos, Solver

CERTIFY = tuple(name for name in STAGES if name in CERTIFYING)


@dataclass(frozen=True)
class Hopeful:
    """Certifies everything, and leaves hints of which it declares the first few."""

    left: tuple[ProofHint, ...]
    declared: int
    name: str = "hopeful"
    verdict: Verdict = Verdict.CERTIFIED

    @property
    def possible_hints(self) -> tuple[ProofHint, ...]:
        return self.left[: self.declared]

    def __call__(self, batch: Batch, so_far: BoundsSoFar) -> Finding:
        decided = torch.ones(len(batch), dtype=torch.bool)
        return Finding(decided, torch.ones(len(batch), dtype=torch.float64), hints=self.left)


@dataclass(frozen=True)
class Counted:
    """A solver that counts the norms of each image."""

    solver: Solver
    asked: list[int] = field(default_factory=list)

    def __call__(self, masked: Masked, start: Tensor) -> Norm:
        self.asked.append(masked.batch)
        return self.solver(masked, start)


def dense(activation: Activation | None = None) -> Network:
    generator, activation = torch.Generator().manual_seed(0), activation or relu()
    node = apply(Input((4,)))
    for before, after in ((4, 6), (6, 6)):
        node = apply(activation, apply(Linear(torch.randn(after, before, generator=generator) / 2), node))
    return Network(apply(Linear(torch.randn(3, 6, generator=generator) / 2), node))


def images_and_labels(network: Network) -> tuple[Tensor, Tensor]:
    images = torch.rand(1, 4, generator=torch.Generator().manual_seed(0))
    return images, network(images).argmax(1)


def _certifier(network: Network, **settings: object) -> Certifier:
    given = {"stages": CERTIFY, "assurance": Assurance.PROBABILISTIC, **settings}
    return Certifier.of(network, Settings(0.01, **given))  # type: ignore[arg-type]


def _norms(program: Program) -> int:
    """The norms of one forward pass at most."""
    return len([t for b in program.blocks for t in b.terms if not t.is_scaled_permutation]) + len(program.blocks)


@pytest.mark.parametrize("second", [ProofHint(local=True), ProofHint(local=True, backward=True)], ids=str)
def test_a_hint_that_the_stage_does_not_declare_is_an_error(second: ProofHint) -> None:
    network = dense()
    certifier = _certifier(network)
    own = next(s for s in certifier.stages if isinstance(s, ProvedStage))
    given, hints = batch_of(*images_and_labels(network), 0.01), (ProofHint(local=True), second)
    assert decided(replace(own, stage=Hopeful(hints, 2)), certifier.program, given).decided.any()
    with pytest.raises(ValueError, match="hopeful leaves hints that it does not declare"):
        decided(replace(own, stage=Hopeful(hints, 1)), certifier.program, given)


def test_a_network_of_maxmin_has_one_global_bound() -> None:
    """LipLT gives no other: a hint at it is passed over, and says nothing else where it is followed all the same."""
    network = dense(MaxMin())
    stage = next(s for s in _certifier(network, stages=("global",)).stages if isinstance(s, ProvedStage))
    assert any(hint.liplt for hint in stage.stage.possible_hints)
    assert stage.prover.liplt is None
    images, labels = images_and_labels(network)
    plain, liplt = (stage.prover(images, labels, ProofHint(local=False, liplt=on), 0.01) for on in (False, True))
    assert torch.equal(plain, liplt)
    refusing = replace(stage, stage=Hopeful((ProofHint(local=False, liplt=True),), 1))
    assert not decided(refusing, stage.prover.program, batch_of(images, labels, 1e-6)).decided.any()


EVERY = (
    ProofHint(local=False),
    ProofHint(local=False, backward=True, liplt=True),
    ProofHint(local=True),
    ProofHint(local=True, backward=True),
    ProofHint(local=True, weighting=RowWeighting.SECANT),
    ProofHint(local=True, intermediate=True, backward=True),
)


@pytest.mark.parametrize("hint", EVERY, ids=str)
def test_a_proof_asks_for_no_more_norms_than_its_hint_says(hint: ProofHint) -> None:
    network = dense()
    prover = next(s for s in _certifier(network).stages if isinstance(s, ProvedStage)).prover
    counted = Counted(prover.solver)
    images, labels = images_and_labels(network)
    replace(prover, solver=counted)(images, labels, hint, torch.tensor([0.01]))
    assert sum(counted.asked) <= hint.forward_passes * _norms(prover.program)
    assert bool(counted.asked) is hint.local


@pytest.mark.parametrize("radius", [None, 0.1])
@pytest.mark.parametrize("stages", [CERTIFY, ("global",), ("local", "crown-ball-intermediate")], ids=str)
def test_the_probability_of_an_error_is_shared_by_all_norms_of_an_image(
    stages: tuple[str, ...], radius: float | None
) -> None:
    certifier = _certifier(dense(), stages=stages, radius_tolerance=radius, delta=1e-3)
    proved = [s for s in certifier.stages if isinstance(s, ProvedStage)]
    hints = [h for s in proved for h in s.stage.possible_hints] + [*(HINTS if radius else ())]
    solver = proved[0].prover.solver.solver  # type: ignore[attr-defined]
    assert isinstance(solver, RandomLanczos)
    most = max(sum(h.forward_passes for h in hints), 1) * _norms(proved[0].prover.program)
    assert solver.delta * most == pytest.approx(1e-3)
