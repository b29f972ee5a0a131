"""Claims: what they say of points, what proves them, and certificates of them against points of whole discs."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from batches import batch_of, decided
from proofs import points_of, prover_of
from torch import Tensor

from llcert.bounds import global_bound
from llcert.certification import (
    FIRST,
    PGD,
    Adversary,
    Assurance,
    Certifier,
    Clean,
    Estimator,
    Global,
    Local,
    Never,
    Radii,
    Settings,
    Specification,
    TargetedAttack,
    Top,
    Verdict,
    positive,
)
from llcert.certification.proof.hint import ProofHint
from llcert.errors import InvalidInput
from llcert.ir import Input, Network, apply
from llcert.ops import Linear, MaxMin, relu
from llcert.program import lower

VALUES = (-1.0, 0.0, 1.0, 2.0, float("nan"), float("inf"), -float("inf"))
CLAIMS = (FIRST, Top(2), Top(3), Never(0), Never(2))
CLASSES = 4


def truth(specification: Specification, shown: list[float], label: int) -> bool:
    """What the claim says of a network that answers with these numbers, by its definition."""
    if any(z != z for z in shown):
        return False
    if isinstance(specification, Never):
        return any(z > shown[specification.excluded] for z in shown)
    assert isinstance(specification, Top)
    return sum(z >= shown[label] for j, z in enumerate(shown) if j != label) < specification.count


def logits_of_all_kinds() -> Tensor:
    return torch.tensor([*itertools.product(VALUES, repeat=CLASSES)])


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("specification", CLAIMS, ids=str)
@pytest.mark.parametrize("label", [0, 3])
def test_a_claim_holds_where_its_definition_says_so(specification: Specification, label: int, clipped: bool) -> None:
    """With a zero behind them, logits stand for themselves behind a ReLU."""
    logits = logits_of_all_kinds()
    with_zero = torch.cat((logits, torch.zeros(len(logits), 1)), 1) if clipped else logits
    found = specification.holds(with_zero, torch.full((len(logits),), label), CLASSES)
    for row, holds in zip(logits.tolist(), found.tolist(), strict=True):
        expected = truth(specification, [max(z, 0.0) if clipped and z == z else z for z in row], label)
        finite = all(abs(z) < float("inf") for z in row)
        assert holds == expected if finite else holds <= expected, row


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("specification", CLAIMS, ids=str)
def test_bounds_that_prove_a_claim_make_it_true(specification: Specification, clipped: bool) -> None:
    """Of exact differences the margin is above 0 only where the claim holds, and wherever it does for finite logits."""
    logits = logits_of_all_kinds()
    logits = torch.cat((logits, torch.zeros(len(logits), 1)), 1) if clipped else logits
    labels = torch.full((len(logits),), 1)
    reference = specification.reference(logits, labels, CLASSES)
    bounds = logits.gather(1, reference[:, None]) - logits
    margin = specification.margin(bounds, reference, CLASSES)
    holds, finite = specification.holds(logits, labels, CLASSES), torch.isfinite(logits).all(1)
    known = torch.isfinite(bounds).all(1)
    assert torch.equal(positive(margin)[finite], holds[finite])
    assert not bool((positive(margin) & ~holds & known).any())
    still = specification.open(bounds, reference, CLASSES)
    assert torch.equal(~still.any(1), positive(margin) | (margin == torch.inf))


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("specification", CLAIMS, ids=str)
def test_a_claim_is_violated_as_far_as_its_worst_rival_violates_it(specification: Specification, clipped: bool) -> None:
    logits = torch.tensor([*itertools.product((-1.5, -1.0, 0.0, 0.5, 2.0), repeat=CLASSES)])
    logits = torch.cat((logits, torch.zeros(len(logits), 1)), 1) if clipped else logits
    labels = torch.full((len(logits),), 1)
    violation = specification.violation(logits, labels, CLASSES)
    assert torch.equal(violation >= 0, ~specification.holds(logits, labels, CLASSES))
    rivals = specification.rivals(specification.reference(logits, labels, CLASSES), logits.shape[1], CLASSES)
    image, rival = torch.nonzero(rivals, as_tuple=True)
    each = torch.full_like(logits, -torch.inf)
    each[image, rival] = specification.violation_by(logits[image], labels[image], rival, CLASSES)
    assert torch.equal(each.amax(1), violation)
    for row, values in zip(logits[::7].tolist(), each[::7].tolist(), strict=True):
        for j, value in enumerate(values):
            if isinstance(specification, Top) and j < CLASSES and j != 1:
                others = sorted((z for k, z in enumerate(row[:CLASSES]) if k not in (1, j)), reverse=True)
                assert value == min([row[j], *others[: specification.spare]]) - row[1]


@pytest.mark.parametrize("specification", CLAIMS, ids=str)
@pytest.mark.parametrize("hostile", [torch.nan, torch.inf, -torch.inf, 0.0, -1.0])
def test_what_is_unknown_proves_nothing(specification: Specification, hostile: float) -> None:
    reference = torch.tensor([1])
    assert not positive(specification.margin(torch.full((1, CLASSES), hostile), reference, CLASSES)).any()
    assert not positive(specification.margin(torch.full((1, CLASSES + 1), hostile), reference, CLASSES)).any()
    zero = torch.tensor([[1.0] * CLASSES + [hostile]])
    assert not positive(specification.margin(zero, reference, CLASSES)).any(), "the zero is never spared"


def test_the_reference_is_never_the_target() -> None:
    for specification in (Never(0), Never(2)):
        assert not (
            specification.reference(logits_of_all_kinds(), torch.zeros(1), CLASSES) == specification.excluded
        ).any()


@pytest.mark.parametrize("specification", [Top(0), Top(4), Top(-1), Never(4), Never(-1)])
def test_claims_that_mean_nothing_are_refused(specification: Specification) -> None:
    with pytest.raises(InvalidInput, match=r"4 classes|classes 0 to 3"):
        Certifier.of(network(0), Settings(0.1, specification=specification))


# networks of two inputs, whose discs are sampled densely


def network(seed: int, *, clipped: bool = False, classes: int = CLASSES) -> Network:
    generator = torch.Generator().manual_seed(seed)
    node = apply(Input((2,)))
    for number, (before, after) in enumerate(((2, 8), (8, 8), (8, classes))):
        weight = torch.randn(after, before, generator=generator, dtype=torch.float64) / before**0.5
        node = apply(Linear(weight, torch.randn(after, generator=generator, dtype=torch.float64) / 3), node)
        node = apply(relu() if number == 0 else MaxMin(), node) if number < 2 else node
    return Network(apply(relu(), node) if clipped else node)


def asked(net: Network, count: int, seed: int) -> tuple[Tensor, Tensor, Radii]:
    """Images, labels of which every third is the second best answer, and a radius for each."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    radii = 0.3 * torch.rand(count, generator=generator, dtype=torch.float64)
    radii[0] = 0.0
    best = net(images).topk(2).indices
    labels = torch.where(torch.arange(count) % 3 == 2, best[:, 1], best[:, 0])
    return images, labels, Radii(tuple(radii.tolist()), first=100)


def always(specification: Specification, net: Network, image: Tensor, label: int, eps: float, seed: int) -> bool:
    """Whether the claim is true at every one of many points of a disc."""
    rows = net(points_of(image[None], eps, 2000, seed)).tolist()
    return all(truth(specification, row, label) for row in rows)


STAGES = ("global", "attack", "local", "crown-ball", "crown-ball-intermediate")


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("specification", [Top(2), Top(3), Never(1), Never(3)], ids=str)
def test_discs(specification: Specification, clipped: bool) -> None:
    true, proved, certified = 0, 0, 0
    for seed in range(3):
        net = network(seed, clipped=clipped)
        images, labels, radii = asked(net, 40, seed)
        certifier = Certifier.of(net, Settings(radii, stages=STAGES, pgd=PGD(steps=30), specification=specification))
        result = certifier(images, labels, torch.arange(100, 140), self_check=True)
        for i, sample in enumerate(result.samples):
            assert sample.eps == radii.values[i]
            assert sample.label == int(labels[i])
            robust = always(specification, net, images[i], int(labels[i]), radii.values[i], seed)
            assert robust or sample.verdict is not Verdict.CERTIFIED, "a certificate is false"
            if sample.verdict is Verdict.MISCLASSIFIED:
                assert not truth(specification, net(images[i][None])[0].tolist(), int(labels[i]))
            certified += sample.verdict is Verdict.CERTIFIED
            # points that are sampled may leave out what an attack finds, but mostly not
            true += robust and sample.verdict is not Verdict.ATTACKED
            proved += robust and sample.verdict is Verdict.CERTIFIED
    assert certified >= 10
    assert proved >= 0.8 * true, f"only {proved} of {true} true claims are proved"


@pytest.mark.parametrize("specification", [FIRST, Top(2), Never(1)], ids=str)
def test_an_attack_leaves_a_point_where_the_claim_is_false(specification: Specification) -> None:
    found, missed = 0, 0
    for seed in range(6):
        net = network(seed)
        program = lower(net, dtype=torch.float64)
        images, labels, radii = asked(net, 40, seed)
        batch = batch_of(images, labels, radii, torch.arange(100, 140))
        open_ = ~decided(Clean(program, specification), program, batch).decided
        if not open_.any():
            continue
        attack = TargetedAttack(Adversary(program, specification=specification))
        finding = decided(attack, program, batch.select(open_))
        assert finding.counterexample is not None
        sizes = torch.tensor(radii.values, dtype=torch.float64)[open_]
        moved = torch.linalg.vector_norm(finding.counterexample - images[open_], dim=1)
        assert (moved <= sizes).all()
        for row, label in zip(
            net(finding.counterexample)[finding.decided].tolist(), labels[open_][finding.decided].tolist(), strict=True
        ):
            assert not truth(specification, row, label)
        broken = torch.tensor(
            [
                not always(specification, net, image, label, eps, seed)
                for image, label, eps in zip(images[open_], labels[open_].tolist(), sizes.tolist(), strict=True)
            ]
        )
        inside = ((images[open_] - sizes[:, None] >= 0) & (images[open_] + sizes[:, None] <= 1)).all(1)
        missed += int((broken & inside & ~finding.decided).sum())
        found += int((broken & inside & finding.decided).sum())
    assert found > 4 * missed


@pytest.mark.parametrize("specification", [Top(2), Never(1)], ids=str)
def test_a_search_for_radii_and_branching_keep_to_the_claim(specification: Specification) -> None:
    net = network(2)
    images, labels, radii = asked(net, 16, 2)
    settings = Settings(
        radii, stages=("branch",), branch_seconds=2.0, radius_tolerance=0.05, specification=specification
    )
    samples = Certifier.of(net, settings)(images, labels, torch.arange(100, 116)).samples
    assert any(s.verdict is Verdict.CERTIFIED for s in samples)
    for i, sample in enumerate(samples):
        assert sample.radius is not None
        if sample.verdict is Verdict.CERTIFIED:
            assert sample.radius >= radii.values[i]
        if sample.radius > 0:
            assert always(specification, net, images[i], int(labels[i]), sample.radius * (1 - 1e-9), 2)


@pytest.mark.parametrize("specification", [Top(2), Never(1)], ids=str)
@pytest.mark.parametrize("assurance", Assurance)
def test_no_radius_certifies_what_is_true(specification: Specification, assurance: Assurance) -> None:
    net = network(1)
    images, labels, _ = asked(net, 20, 1)
    samples = Certifier.of(net, Settings(0.0, assurance=assurance, specification=specification))(
        images, labels, torch.arange(20)
    ).samples
    kinds = {s.verdict for s in samples}
    assert kinds <= {Verdict.CERTIFIED, Verdict.MISCLASSIFIED}
    for row, sample in zip(net(images).tolist(), samples, strict=True):
        assert (sample.verdict is Verdict.CERTIFIED) == truth(specification, row, sample.label)


def test_weaker_claims_are_never_harder() -> None:
    net = network(4)
    images, labels, radii = asked(net, 40, 4)
    program, batch = lower(net, dtype=torch.float64), batch_of(images, labels, radii, torch.arange(100, 140))
    bound = global_bound(program)
    for kind in (Global, Local):
        before = torch.zeros(40, dtype=torch.bool)
        for specification in (FIRST, Top(2), Top(3)):
            now = decided(kind(Estimator(program, bound, specification=specification)), program, batch).decided
            assert not (before & ~now).any()
            before = now


@pytest.mark.parametrize("weight", [1e30, torch.inf, torch.nan])
@pytest.mark.parametrize("specification", CLAIMS, ids=str)
def test_overflow_and_nan_certify_nothing(specification: Specification, weight: float) -> None:
    generator = torch.Generator().manual_seed(0)
    node = apply(Input((2,)))
    for before, after in ((2, 6), (6, 6), (6, 4)):
        node = apply(relu(), apply(Linear(torch.randn(after, before, generator=generator) * weight), node))
    net = Network(node.inputs[0])
    images, labels = torch.rand(20, 2, generator=generator), torch.arange(20) % 4
    samples = Certifier.of(net, Settings(0.1, specification=specification, pgd=PGD(steps=3)))(
        images, labels, torch.arange(20)
    ).samples
    assert not any(s.verdict is Verdict.CERTIFIED for s in samples)


@pytest.mark.parametrize("specification", CLAIMS, ids=str)
def test_ties_certify_nothing(specification: Specification) -> None:
    net = Network(apply(Linear(torch.zeros(4, 2), torch.ones(4)), apply(Input((2,)))))
    images, labels = torch.rand(8, 2), torch.arange(8) % 4
    for stages in (("global", "local", "crown-ball"), ("local",)):
        samples = Certifier.of(net, Settings(0.1, stages=stages, specification=specification))(
            images, labels, torch.arange(8)
        ).samples
        assert all(s.verdict is Verdict.MISCLASSIFIED for s in samples)


def test_only_rivals_are_carried() -> None:
    net = network(0)
    images, labels, _ = asked(net, 5, 0)
    prover = prover_of(net, Settings(0.05, specification=Never(2)))
    reference = Never(2).reference(net(images), labels, CLASSES)
    every = replace(prover, specification=FIRST)(images, reference, ProofHint(local=True, backward=True), 0.05)
    some = prover(images, reference, ProofHint(local=True, backward=True), 0.05)
    torch.testing.assert_close(some[:, 2], every[:, 2])
    rest = torch.ones(5, CLASSES, dtype=torch.bool).scatter(1, reference[:, None], False)
    rest[:, 2] = False
    assert (some[rest] == -torch.inf).all()


# a radius for each image


@pytest.mark.parametrize("large_first", [True, False])
def test_each_image_has_its_own_radius(large_first: bool) -> None:
    """Whatever batch it is in: the verdicts are those of one radius for all."""
    net = network(3)
    images, labels, _ = asked(net, 12, 3)
    radii = Radii((0.02, 0.1, 0.3) * 4, first=5)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    if large_first:
        order = torch.tensor(sorted(range(12), key=lambda i: -(i % 3)))
    settings = Settings(0.02, stages=("global", "local", "crown-ball"))
    mixed = Certifier.of(net, replace(settings, eps=radii))(images[order], labels[order], order + 5).samples
    assert len({s.verdict for s in mixed}) > 1
    for eps in (0.02, 0.1, 0.3):
        alone = Certifier.of(net, replace(settings, eps=eps))(images, labels, torch.arange(5, 17)).samples
        for sample in mixed:
            if sample.eps == eps:
                assert sample.verdict is alone[sample.index - 5].verdict


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_radii_that_are_none_are_refused(value: float) -> None:
    with pytest.raises(InvalidInput, match="the radius of image 4"):
        Radii((0.1, value), first=3)


def test_an_image_without_a_radius_is_refused() -> None:
    net = network(0)
    images, labels, radii = asked(net, 4, 0)
    for indices in (torch.arange(4), torch.arange(101, 105)):
        with pytest.raises(InvalidInput, match="has no radius"):
            Certifier.of(net, Settings(radii))(images, labels, indices)


def test_leads_is_strict() -> None:
    nan, inf = torch.nan, torch.inf
    rows = [[2, 1, 1], [1, 1, 0], [1, 2, 0], [nan, 0, 0], [1, nan, 0], [inf, 0, 0], [1, -inf, 0], [inf, inf, 0]]
    found = FIRST.holds(torch.tensor(rows, dtype=torch.float32), torch.zeros(len(rows), dtype=torch.int64), 3)
    assert found.tolist() == [True, False, False, False, False, False, True, False]


def test_positive_is_strict() -> None:
    margins = torch.tensor([1e-45, 0.0, -0.0, -1.0, torch.nan, torch.inf, -torch.inf])
    assert positive(margins).tolist() == [True, False, False, False, False, False, False]
