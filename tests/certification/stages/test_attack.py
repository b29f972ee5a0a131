"""The stages attack and targeted: what they find, where, and by whose word."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from attacks import attacked
from batches import batch_of, decided
from torch import Tensor

from llcert.certification import (
    FIRST,
    PGD,
    Adversary,
    Attack,
    AttackKind,
    AttackLoss,
    Certifier,
    Finding,
    Never,
    Settings,
    Specification,
    TargetedAttack,
    Top,
    Verdict,
)
from llcert.ir import Input, Network, apply
from llcert.ops import Linear, relu
from llcert.program import Program, lower

INDICES = torch.arange(60)


def _linear(weight: Tensor, bias: Tensor | None = None) -> Program:
    size = weight.shape[1]
    return lower(Network(apply(Linear(weight, bias), apply(Input((size,))))), dtype=weight.dtype)


def _deep(scale: float = 1.0, classes: int = 5) -> Network:
    generator = torch.Generator().manual_seed(2)
    node = apply(Input((6,)))
    for rows in (24, 16):
        node = apply(relu(), apply(Linear(torch.randn(rows, node.shape[0], generator=generator) / 2), node))
    return Network(apply(Linear(torch.randn(classes, 16, generator=generator) * scale), node))


def _images() -> Tensor:
    return torch.rand(60, 6, generator=torch.Generator().manual_seed(3))


def _attack(
    program: Program, images: Tensor, labels: Tensor, eps: float, *, specification: Specification = FIRST
) -> Finding:
    return decided(
        TargetedAttack(Adversary(program, specification=specification)), program, batch_of(images, labels, eps)
    )


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_the_nearest_of_many_borders(seed: int) -> None:
    """Of a linear network the least distance is known in closed form, and it may leave the pixel range."""
    generator = torch.Generator().manual_seed(seed)
    program = _linear(torch.randn(8, 6, generator=generator, dtype=torch.float64))
    images = torch.rand(60, 6, generator=generator, dtype=torch.float64)
    logits = program.logits(images)
    labels = logits.argmax(1)
    weight = program.blocks[0].terms[0].adjoint(torch.eye(8, dtype=torch.float64))
    distance = (logits.gather(1, labels[:, None]) - logits) / (weight[labels][:, None] - weight).norm(dim=2)
    needed = distance.nan_to_num(torch.inf).scatter(1, labels[:, None], torch.inf).amin(1)
    for factor, expected in ((1.001, True), (0.999, False)):
        found = [
            _attack(program, images[i : i + 1], labels[i : i + 1], float(needed[i]) * factor).decided for i in range(12)
        ]
        assert torch.cat(found).tolist() == [expected] * 12


def test_every_point_it_reports_is_a_counterexample() -> None:
    program, images = lower(_deep()), _images()
    labels = program.logits(images).argmax(1)
    finding = _attack(program, images, labels, 0.5)
    assert finding.counterexample is not None
    assert finding.in_range is not None
    points, broken = finding.counterexample, finding.decided
    assert 5 <= int(broken.sum()) < 60
    assert not FIRST.holds(program.logits(points), labels, 5)[broken].any()
    assert FIRST.holds(program.logits(points), labels, 5)[~broken].all()
    assert (torch.linalg.vector_norm(points.double() - images.double(), dim=1) <= 0.5).all()
    assert torch.equal(finding.in_range, ((points >= 0) & (points <= 1)).all(1))
    met, begun = (FIRST.violation(program.logits(x), labels, 5) for x in (points, images))
    assert (met > begun).all()


def test_a_picture_is_preferred_where_there_is_one() -> None:
    """The first pixel decides; of three images the ball holds a picture, only another point, and nothing."""
    program = _linear(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0.0, -1.2]))
    images, labels = torch.tensor([[0.5, 0.5], [0.9, 0.5], [0.1, 0.5]]), torch.zeros(3, dtype=torch.int64)
    finding = _attack(program, images, labels, 0.5)
    assert finding.decided.tolist() == [False, True, False]
    assert finding.in_range is not None
    assert not finding.in_range[1]
    nearer = _linear(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0.0, -0.95]))
    finding = _attack(nearer, images, labels, 0.5)
    assert finding.decided.tolist() == [True, True, False]
    assert finding.in_range is not None
    assert finding.in_range[:2].all()


def test_a_claim_about_pictures_is_refuted_by_pictures_alone() -> None:
    program = _linear(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0.0, -1.2]))
    images, labels = torch.tensor([[0.9, 0.5]]), torch.zeros(1, dtype=torch.int64)
    stage = TargetedAttack(Adversary(program, restricted=True))
    assert not decided(stage, program, batch_of(images, labels, 0.5)).decided.any()
    assert _attack(program, images, labels, 0.5).decided.all()


def test_closed_rivals_are_left_out_unless_all_are_closed() -> None:
    """Only the second class can win; a bound that closes it wrongly hides it, one that closes all hides nothing."""
    program = _linear(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), torch.tensor([0.0, -0.8, -9.0]))
    images, labels = torch.tensor([[0.5, 0.5]]), torch.zeros(1, dtype=torch.int64)
    for bounds, expected in (([0.0, 1.0, -1.0], False), ([0.0, -1.0, 1.0], True), ([0.0, 1.0, 1.0], True)):
        stage, batch = TargetedAttack(Adversary(program)), batch_of(images, labels, 0.5)
        assert bool(decided(stage, program, batch, torch.tensor([bounds])).decided) is expected


def test_it_is_broken_only_if_the_deployed_network_says_so() -> None:
    program, images = lower(_deep()), _images()
    labels = program.logits(images).argmax(1)

    def finding(deployed: Callable[[Tensor], Tensor]) -> Finding:
        return decided(TargetedAttack(Adversary(program, deployed)), program, batch_of(images, labels, 0.5))

    own = finding(program.logits)
    assert torch.equal(finding(lambda points: program.logits(points) * 2).decided, own.decided)
    stubborn = finding(lambda points: program.logits(images)[:1].expand(len(points), -1) * 0 + torch.arange(5.0))
    assert stubborn.decided.tolist() == (own.decided & (labels != 4)).tolist()
    shifted = finding(lambda points: program.logits(points) + 0.05 * torch.nn.functional.one_hot(labels[:1], 5))
    assert not (shifted.decided & ~own.decided).any()


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e20, 1e30])
@pytest.mark.parametrize("specification", [FIRST, Top(2), Never(1)], ids=str)
def test_the_scale_of_the_logits_does_not_matter(specification: Specification, scale: float) -> None:
    images = _images()
    plain, scaled = lower(_deep()), lower(_deep(scale))
    labels = specification.reference(plain.logits(images), plain.logits(images).argmax(1), 5)
    right = specification.holds(plain.logits(images), labels, 5)
    images, labels = images[right], labels[right]
    assert torch.equal(scaled.logits(images).argmax(1), plain.logits(images).argmax(1))
    known, found = (_attack(p, images, labels, 0.5, specification=specification).decided for p in (plain, scaled))
    assert 0 < int(known.sum()) < len(known)
    assert torch.equal(known, found)
    pgd = PGD(loss=AttackLoss.MARGIN)
    known, found = (
        attacked(pgd, p, images, labels, 0.5, specification=specification, whole=True).refuted for p in (plain, scaled)
    )
    assert int(known.sum()) > 0
    assert torch.equal(known, found)


def test_what_it_finds_does_not_depend_on_who_shares_a_batch() -> None:
    program, images = lower(_deep(), dtype=torch.float64), _images().double()
    labels = program.logits(images).argmax(1)
    together = _attack(program, images, labels, 0.5)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    stage, batch = TargetedAttack(Adversary(program)), batch_of(images, labels, 0.5)
    parts = [decided(stage, program, batch.select(i)) for i in order.split(7)]
    assert torch.equal(torch.cat([p.decided for p in parts]), together.decided[order])


def test_nothing_to_attack_is_no_trouble() -> None:
    program = lower(_deep())
    finding = _attack(program, _images()[:0], torch.zeros(0, dtype=torch.int64), 0.5)
    assert finding.decided.shape == (0,)
    images = _images()
    labels = program.logits(images).argmax(1)
    assert not _attack(program, images, labels, 0.0).decided.any()


def test_overflow_and_nan_end_in_a_verdict_of_the_network_itself() -> None:
    for weight in (torch.nan, torch.inf, 1e38):
        program = _linear(torch.full((3, 4), weight))
        images, labels = torch.rand(5, 4), torch.zeros(5, dtype=torch.int64)
        finding = _attack(program, images, labels, 0.1)
        assert finding.counterexample is not None
        assert finding.counterexample.isfinite().all()


def _certify(**settings: object) -> list[tuple[Verdict, str | None]]:
    images = _images()
    certifier = Certifier.of(_deep(), Settings(0.35, **settings))  # type: ignore[arg-type]
    samples = certifier(images, _deep()(images).argmax(1), INDICES, self_check=True).samples
    return [(s.verdict, s.stage) for s in samples]


def test_it_runs_after_the_bounds_and_decides_what_they_leave() -> None:
    assert Settings(0.1).running == ("global", "local", "attack", "crown-ball", "crown-ball-intermediate", "targeted")
    assert Settings(0.1, stages=("branch", "attack")).running == ("attack", "targeted", "branch")
    assert Settings(0.1, stages=("local",)).running == ("local",)
    found = _certify(pgd=PGD(steps=1))
    assert "targeted" in [stage for _, stage in found]
    assert Verdict.CERTIFIED in [verdict for verdict, _ in found]


def test_the_papers_attack_is_one_stage_on_the_cross_entropy() -> None:
    paper = Settings(0.1, attack=AttackKind.PAPER)
    assert paper.running == ("global", "local", "attack", "crown-ball", "crown-ball-intermediate")
    for settings, loss in ((paper, AttackLoss.LOG_SUM_EXP), (Settings(0.1), AttackLoss.MARGIN)):
        (stage,) = [s for s in Certifier.of(_deep(), settings).stages if isinstance(s, Attack)]
        assert stage.pgd == PGD(loss=loss)
    weak, strong = (
        sum(v is Verdict.ATTACKED for v, _ in _certify(attack=kind))
        for kind in (AttackKind.PAPER, AttackKind.TWO_STAGE)
    )
    assert weak <= strong


def test_counterexamples_of_one_path_refute_the_claim() -> None:
    program = lower(_deep(), dtype=torch.float64)
    images = _images().double()
    labels = program.logits(images).argmax(1)
    finding = decided(Attack(Adversary(program)), program, batch_of(images, labels, 0.4))
    assert finding.counterexample is not None
    assert finding.decided.any()
    points = finding.counterexample[finding.decided]
    assert not FIRST.holds(program.logits(points), labels[finding.decided], 5).any()
    assert bool(((points - images[finding.decided]).norm(dim=1) <= 0.4).all())
    assert bool(((points >= 0) & (points <= 1)).all())
