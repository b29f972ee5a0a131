"""Bookkeeping: who saw what, who decided, and a contradiction that stops the run."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from llcert.certification import (
    Batch,
    BatchResult,
    BoundsSoFar,
    Contradiction,
    Finding,
    Sample,
    Stage,
    Verdict,
    cascade,
)
from llcert.certification.verdict import Assurance, LayerMeasure
from llcert.errors import NumericalError
from llcert.ir import Input, Network, apply
from llcert.ops import Linear
from llcert.program import Program, lower

IMAGES = torch.arange(12, dtype=torch.float32).reshape(6, 2) / 12
LABELS = torch.tensor([0, 1, 0, 1, 0, 1])
INDICES = torch.arange(100, 106)
BATCH = Batch(IMAGES, LABELS, INDICES, torch.zeros(6, dtype=torch.float64), LABELS, torch.ones_like(LABELS), INDICES)


@dataclass(frozen=True)
class Scripted:
    """A stage that decides the images with certain indices."""

    name: str
    verdict: Verdict
    decides: frozenset[int]
    margin: float | None = None
    measures: bool = False
    witness: Tensor | None = None

    def __call__(self, batch: Batch, so_far: BoundsSoFar) -> Finding:
        decided = torch.tensor([int(i) in self.decides for i in batch.indices])
        size = (len(batch),)
        layer = LayerMeasure(torch.ones(size), torch.ones(size), torch.ones(size))
        return Finding(
            decided,
            margin=None if self.margin is None else torch.full(size, self.margin),
            lipschitz=torch.full(size, 2.0) if self.measures else None,
            radius_growth=torch.full(size, torch.inf) if self.measures else None,
            layers=(layer,) if self.measures else (),
            counterexample=None if self.witness is None else self.witness.expand(len(batch), -1),
        )


def _program() -> Program:
    return lower(Network(apply(Linear(torch.eye(2)), apply(Input((2,))))))


def _run(*stages: Stage, measure_all: bool = False) -> BatchResult:
    return cascade(_program(), stages, BATCH, measure_all=measure_all)


CLEAN = Scripted("clean", Verdict.MISCLASSIFIED, frozenset({100}))
GLOBAL = Scripted("global", Verdict.CERTIFIED, frozenset({101}), margin=-1.0)
ATTACK = Scripted("attack", Verdict.ATTACKED, frozenset({102, 103}))
LOCAL = Scripted("local", Verdict.CERTIFIED, frozenset({104}), margin=0.5, measures=True)


def test_each_stage_sees_what_the_earlier_ones_left() -> None:
    result = _run(CLEAN, GLOBAL, ATTACK, LOCAL)
    assert [(s.name, s.seen, s.decided) for s in result.stages] == [
        ("clean", 6, 1),
        ("global", 5, 1),
        ("attack", 4, 2),
        ("local", 2, 1),
    ]
    assert all(s.seconds >= 0 for s in result.stages)


def test_samples_say_who_decided_and_what_was_measured() -> None:
    samples = _run(CLEAN, GLOBAL, ATTACK, LOCAL).samples
    assert [s.verdict.value for s in samples] == [
        "misclassified",
        "certified",
        "attacked",
        "attacked",
        "certified",
        "undecided",
    ]
    assert [s.stage for s in samples] == ["clean", "global", "attack", "attack", "local", None]
    assert [s.index for s in samples] == INDICES.tolist()
    assert [s.label for s in samples] == LABELS.tolist()
    assert [s.prediction for s in samples] == [1] * 6
    assert [s.margin for s in samples] == [None, -1, -1, -1, 0.5, 0.5], "the best margin of all stages stays"
    assert [s.local_lipschitz for s in samples] == [None] * 4 + [2, 2]
    assert [s.radius_growth for s in samples] == [None] * 6, "infinity is nothing known"


def test_every_image_has_one_verdict_and_counts_add_up() -> None:
    result = _run(CLEAN, GLOBAL, ATTACK, LOCAL)
    decided = sum(s.decided for s in result.stages)
    assert decided + sum(s.verdict is Verdict.UNDECIDED for s in result.samples) == 6
    for stage in result.stages:
        assert sum(s.stage == stage.name for s in result.samples) == stage.decided


def test_a_stage_with_nothing_left_to_see_is_counted() -> None:
    everyone = Scripted("clean", Verdict.MISCLASSIFIED, frozenset(INDICES.tolist()))
    result = _run(everyone, LOCAL)
    assert [(s.seen, s.decided) for s in result.stages] == [(6, 6), (0, 0)]
    assert result.layers == ()


def test_measuring_all_keeps_the_first_verdict() -> None:
    result = _run(CLEAN, LOCAL, measure_all=True)
    assert result.stages[1].seen == 6
    assert [s.local_lipschitz for s in result.samples] == [2] * 6
    assert result.samples[0].verdict is Verdict.MISCLASSIFIED
    assert result.samples[4].verdict is Verdict.CERTIFIED


def test_agreeing_stages_may_both_decide() -> None:
    again = Scripted("again", Verdict.CERTIFIED, frozenset({101}))
    samples = _run(GLOBAL, again, measure_all=True).samples
    assert samples[1].stage == "global"


@pytest.mark.parametrize("first", ["broken", "certified"])
def test_certified_and_broken_at_once_stops_the_run(first: str) -> None:
    witness = torch.tensor([0.25, 0.75])
    broken = Scripted("attack", Verdict.ATTACKED, frozenset({103}), witness=witness)
    certified = Scripted("local", Verdict.CERTIFIED, frozenset({103}))
    stages = (broken, certified) if first == "broken" else (certified, broken)
    with pytest.raises(Contradiction, match="image 103 is certified and broken") as caught:
        _run(*stages, measure_all=True)
    assert isinstance(caught.value, NumericalError)
    assert (caught.value.index, caught.value.label) == (103, 1)
    assert torch.equal(caught.value.image, IMAGES[3])
    assert torch.equal(caught.value.counterexample, witness if first == "certified" else IMAGES[3])


def test_certifying_a_misclassified_image_is_a_contradiction_too() -> None:
    rigged = Scripted("local", Verdict.CERTIFIED, frozenset({100}))
    with pytest.raises(Contradiction):
        _run(CLEAN, rigged, measure_all=True)


def test_nan_margins_do_not_hide_known_ones() -> None:
    unknown = Scripted("local", Verdict.CERTIFIED, frozenset(), margin=float("nan"))
    assert [s.margin for s in _run(GLOBAL, unknown).samples] == [-1] * 6


def test_an_empty_batch_has_no_samples() -> None:
    result = cascade(_program(), (CLEAN, LOCAL), BATCH.select(INDICES[:0]))
    samples: tuple[Sample, ...] = result.samples
    assert samples == ()
    assert [s.seen for s in result.stages] == [0, 0]


@pytest.mark.parametrize("measure_all", [False, True])
def test_a_disputed_image_is_shown_to_the_first_stage_alone(measure_all: bool) -> None:
    disputed = torch.tensor([True, True, False, False, False, False])
    result = cascade(_program(), (CLEAN, GLOBAL, LOCAL), BATCH, disputed=disputed, measure_all=measure_all)
    assert [(s.verdict, s.disputed) for s in result.samples[:3]] == [
        (Verdict.MISCLASSIFIED, False),
        (Verdict.UNDECIDED, True),
        (Verdict.UNDECIDED, False),
    ]
    assert [s.seen for s in result.stages] == ([6, 5, 5] if measure_all else [6, 4, 4])
    assert disputed.sum() == 2, "the caller's tensor stays as it is"


def test_the_strongest_assurance_counts_and_only_of_what_is_not_refuted() -> None:
    @dataclass(frozen=True)
    class Backed(Scripted):
        def __call__(self, batch: Batch, so_far: BoundsSoFar) -> Finding:
            found = super().__call__(batch, so_far)
            weaker = {Assurance.ESTIMATE: torch.ones(len(batch), dtype=torch.bool)}
            return replace(found, assurance=Assurance.DETERMINISTIC, weaker=weaker)

    samples = _run(Backed("local", Verdict.CERTIFIED, frozenset({104})), ATTACK).samples
    expected = [Assurance.ESTIMATE] * 2 + [None] * 2 + [Assurance.DETERMINISTIC, Assurance.ESTIMATE]
    assert [s.assurance for s in samples] == expected
