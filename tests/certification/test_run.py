"""Settings and whole certifications of small networks."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from llcert.certification import PGD, BatchResult, Certifier, Settings, Verdict
from llcert.errors import InvalidInput
from llcert.ir import Input, Network, apply
from llcert.numerics.products import full_precision
from llcert.ops import Linear, relu

COUNT = 60


def _network(seed: int = 0, scale: float = 1.0) -> Network:
    generator = torch.Generator().manual_seed(seed)
    node = apply(Input((4,)))
    for number, (before, after) in enumerate(((4, 12), (12, 12), (12, 3))):
        weight = torch.randn(after, before, generator=generator) * scale / before**0.5
        node = apply(Linear(weight, torch.randn(after, generator=generator) * scale / 3), node)
        node = apply(relu(), node) if number < 2 else node
    return Network(node, source="small.onnx")


def _batch(network: Network) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels of which one in six is wrong, indices."""
    images = torch.rand(COUNT, 4, generator=torch.Generator().manual_seed(1))
    labels = network(images).argmax(1)
    labels[::6] = (labels[::6] + 1) % 3
    return images, labels, torch.arange(COUNT)


def _certify(eps: float, network: Network | None = None, *, self_check: bool = True, **given: Any) -> BatchResult:
    network = network or _network()
    given.setdefault("pgd", PGD(steps=20))
    return Certifier.of(network, Settings(eps, **given))(*_batch(network), self_check=self_check)


@pytest.mark.parametrize("eps", [-1e-9, -1.0, math.nan, math.inf, -math.inf])
def test_settings_refuse_a_radius_that_is_none(eps: float) -> None:
    with pytest.raises(InvalidInput, match="eps must be a finite number"):
        Settings(eps)


@pytest.mark.parametrize("stages", [(), ("ibp",), ("local", "local"), ("clean", "local"), ("",)])
def test_settings_refuse_stages_that_do_not_exist(stages: tuple[str, ...]) -> None:
    with pytest.raises(
        InvalidInput,
        match="give a list of global, local, attack, crown-ball, crown-ball-intermediate, branch without repeats",
    ):
        Settings(0.1, stages)


@pytest.mark.parametrize(
    "given", [{"delta": 0.0}, {"delta": 1.0}, {"proof_seconds": 0.0}, {"proof_seconds": float("inf")}]
)
def test_settings_refuse_budgets_that_mean_nothing(given: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(given)).replace("_", " ")):
        Settings(0.1, **given)


def test_a_single_output_has_no_rival() -> None:
    with pytest.raises(InvalidInput, match="a class needs a rival"):
        Certifier.of(Network(apply(Linear(torch.ones(1, 2)), apply(Input((2,))))), Settings(0.1))


@pytest.mark.parametrize("label", [-1, 3, 1000])
def test_labels_out_of_range_are_refused(label: int) -> None:
    network = _network()
    images, labels, indices = _batch(network)
    labels[7] = label
    with pytest.raises(InvalidInput, match="the network has 3 classes"):
        Certifier.of(network, Settings(0.1))(images, labels, indices)


@pytest.mark.parametrize("eps", [0.0, 0.01, 0.05, 0.2, 1.0])
def test_certified_is_at_most_attacked_is_at_most_clean(eps: float) -> None:
    result = _certify(eps)
    count = Counter(s.verdict for s in result.samples)
    assert sum(count.values()) == COUNT
    clean = COUNT - count[Verdict.MISCLASSIFIED]
    robust = clean - count[Verdict.ATTACKED]
    assert count[Verdict.CERTIFIED] <= robust <= clean == COUNT - COUNT // 6
    assert result.stages[0].seen == COUNT
    for before, after in zip(result.stages, result.stages[1:], strict=False):
        assert after.seen == before.seen - before.decided
    if eps == 0:
        assert count[Verdict.CERTIFIED] == clean
    if eps == 1:
        assert count[Verdict.ATTACKED] > 0


def test_a_larger_radius_certifies_no_image_more() -> None:
    before = set(range(COUNT))
    for eps in (0.0, 0.005, 0.02, 0.08, 0.3):
        samples = _certify(eps, stages=("global", "local"), self_check=False).samples
        certified = {s.index for s in samples if s.verdict is Verdict.CERTIFIED}
        assert certified <= before
        before = certified


def test_the_local_stage_alone_measures_everyone() -> None:
    result = _certify(0.05, stages=("local",))
    assert [s.seen for s in result.stages] == [COUNT, COUNT]
    assert all(s.local_lipschitz is not None and s.margin is not None for s in result.samples)
    assert all(s.verdict is Verdict.MISCLASSIFIED for s in result.samples[::6])
    assert result.layers[0].norm.shape == (COUNT,)
    cascaded = _certify(0.05)
    assert cascaded.stages[-1].seen < COUNT


def test_order_and_choice_of_stages_do_not_change_who_is_certified() -> None:
    both, alone = (_certify(0.05, stages=s).samples for s in (("global", "local"), ("local",)))
    certified = [{s.index for s in samples if s.verdict is Verdict.CERTIFIED} for samples in (both, alone)]
    assert certified[0] == certified[1] != set()
    turned = _certify(0.05, stages=("attack", "local", "global")).samples
    assert {s.index for s in turned if s.verdict is Verdict.CERTIFIED} == certified[0]


def test_a_constant_network_is_misclassified_everywhere() -> None:
    network = Network(apply(Linear(torch.zeros(3, 4)), apply(Input((4,)))))
    assert {s.verdict for s in _certify(0.1, network).samples} == {Verdict.MISCLASSIFIED}


def test_a_constant_network_with_a_favourite_is_certified_where_it_is_right() -> None:
    network = Network(apply(Linear(torch.zeros(3, 4), torch.tensor([0.0, 1.0, 0.0])), apply(Input((4,)))))
    samples = _certify(0.1, network).samples
    assert all((s.verdict is Verdict.CERTIFIED) == (s.label == 1) for s in samples)


@pytest.mark.parametrize("scale", [1e-12, 1e-8, 1e8, 1e12, 1e15, 1e30, math.inf, math.nan])
def test_extreme_weights_give_no_false_certificate_and_no_crash(scale: float) -> None:
    network = _network(scale=scale)
    for stages in (("global", "attack", "local"), ("local",)):
        for sample in _certify(0.3, network, stages=stages).samples:
            assert sample.margin is None or math.isfinite(sample.margin)
            if scale >= 1e15 or math.isnan(scale):
                assert sample.verdict is not Verdict.CERTIFIED


def test_weights_that_vanish_and_come_back_are_not_certified() -> None:
    """Layers of 1e-30 and 1e30: the network is the identity, the squares of its weights are zero in float32."""
    node = apply(relu(), apply(Linear(torch.eye(3) * 1e-30), apply(Input((3,)))))
    network = Network(apply(Linear(torch.eye(3) * 1e30), node))
    image, label = torch.tensor([[0.5, 0.45, 0.4]]), torch.tensor([0])
    for eps, expected in ((0.03, Verdict.CERTIFIED), (0.04, Verdict.UNDECIDED)):
        certifier = Certifier.of(network, Settings(eps, stages=("global", "local")))
        assert (
            certifier(image, label, torch.zeros(1, dtype=torch.int64), self_check=True).samples[0].verdict is expected
        )


def test_nan_pixels_certify_nothing() -> None:
    network = _network()
    images, labels, indices = _batch(network)
    images[3, 2] = math.nan
    samples = Certifier.of(network, Settings(0.01))(images, labels, indices).samples
    assert samples[3].verdict is Verdict.MISCLASSIFIED
    assert any(s.verdict is Verdict.CERTIFIED for s in samples)


def test_a_solver_that_never_converges_still_certifies_by_the_global_norms() -> None:
    settings = Settings(0.02, stages=("local",))
    network = _network()
    starved = replace(settings, solver=replace(settings.solver, tolerance=1e-9, cap=1))
    found = [
        {s.index for s in Certifier.of(network, x)(*_batch(network)).samples if s.verdict is Verdict.CERTIFIED}
        for x in (starved, settings)
    ]
    assert found[0] <= found[1]


def test_seeds_reproduce() -> None:
    first, again = (_certify(0.1, seed=4) for _ in range(2))
    assert [(s.verdict, s.margin) for s in first.samples] == [(s.verdict, s.margin) for s in again.samples]


def test_float64_agrees_with_float32() -> None:
    network = _network()
    batch = _batch(network)
    found = [
        Certifier.of(network, Settings(0.05, stages=("global", "local")), dtype=dtype)(*batch).samples
        for dtype in (torch.float32, torch.float64)
    ]
    for single, double in zip(*found, strict=True):
        if single.margin is not None and abs(single.margin) > 1e-3:
            assert single.verdict is double.verdict


def test_clipping_the_box_certifies_no_image_less() -> None:
    plain, clipped = (_certify(0.1, stages=("local",), clip_input=clip).samples for clip in (False, True))
    for a, b in zip(plain, clipped, strict=True):
        assert a.margin is not None
        assert b.margin is not None
        assert b.margin >= a.margin - 1e-3


def test_precision_is_restored_even_after_an_error() -> None:
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    seen = []

    def fail() -> None:
        with full_precision():
            seen.append(setting.fp32_precision)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == ["ieee"]
    assert setting.fp32_precision == before
