"""Networks and inputs made to be certified falsely. None may be, in the deterministic sense, for float32 or real."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from proofs import ORDERS, in_float32
from seeds import seeds
from torch import Tensor, nn

import llcert
from llcert.certification import Assurance, Certifier, Settings, Verdict
from llcert.certification.settings import Semantics
from llcert.ir import Input, Network, Node, apply
from llcert.ops import (
    Add,
    Affine,
    BatchNorm,
    Clamp,
    Leaky,
    Linear,
    MaxMin,
    Reduce,
    Reshape,
    Sigmoid,
    SumPool,
    relu,
)
from llcert.ops.clamp import Spelling

STAGES = ("global", "local", "crown-ball")


def certified(
    network: Network,
    image: Tensor,
    label: int,
    eps: float,
    semantics: Semantics = Semantics.DEPLOYED,
    dtype: torch.dtype = torch.float64,
) -> bool:
    """Whether any stage certifies the image with proof. dtype: of the estimates behind the proofs."""
    certifier = Certifier.of(network, Settings(eps, stages=STAGES, semantics=semantics), dtype=dtype)
    result = certifier(image, torch.tensor([label]), torch.zeros(1, dtype=torch.int64))
    return result.samples[0].verdict is Verdict.CERTIFIED


def chain(*layers: tuple[Tensor, Tensor | None]) -> Network:
    """Dense layers with ReLU between them."""
    node = apply(Input((layers[0][0].shape[1],), layers[0][0].dtype))
    for number, (weight, bias) in enumerate(layers):
        node = apply(relu(), node) if number else node
        node = apply(Linear(weight, bias), node)
    return Network(node)


def matrix(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows)


def row(*values: float) -> Tensor:
    return torch.tensor([values])


def random_chain(scales: tuple[float, ...], seed: int, dtype: torch.dtype = torch.float32) -> Network:
    generator = torch.Generator().manual_seed(seed)
    widths = (3, *(4,) * (len(scales) - 1), 2)
    return chain(
        *(
            (torch.randn(b, a, generator=generator).to(dtype) * s, None)
            for a, b, s in zip(widths, widths[1:], scales, strict=False)
        )
    )


def label_of(network: Network, image: Tensor) -> int:
    return int(network(image.double()).argmax(1))


def robust_in_float32(network: Network, image: Tensor, label: int, eps: float, *, flush: bool) -> bool:
    """Whether no order of sums shows a point of the ball, among a few, where another label comes first or ties."""
    noise = torch.randn(64, *image.shape[1:], generator=torch.Generator().manual_seed(0))
    points = torch.cat([image, image + 0.999 * eps * torch.nn.functional.normalize(noise)])
    for order in (None, *ORDERS.values()):
        logits = in_float32(network, points, order, flush=flush)[network.output]
        others = logits.clone()
        others[:, label] = -torch.inf
        if not bool((logits[:, label] > others.amax(1)).all()):
            return False
    return True


SCALES = [(1e-30, 1e30, 1.0), (1e30, 1e-30, 1.0), (1e-38, 1e38, 1.0), (1e38, 1e-38, 1.0), (1e-38, 1e-38, 1e38, 1e38)]
SCALES += [(1e30, 1e30, 1e-30, 1e-30), (1e-45, 1e30, 1.0), (1e-20, 1e-20, 1e-5), (1e19, 1e19, 1e-38)]


@pytest.mark.parametrize(
    ("dtype", "scales"), [(torch.float32, s) for s in SCALES] + [(torch.float64, s) for s in SCALES[2:5]]
)
@pytest.mark.parametrize("seed", seeds(1, 2))
def test_scales_that_leave_the_range_of_float32(scales: tuple[float, ...], dtype: torch.dtype, seed: int) -> None:
    network = random_chain(scales, seed)
    image = torch.rand(1, 3, generator=torch.Generator().manual_seed(seed))
    label = label_of(network, image)
    for eps in (1e-3, 0.1):
        if certified(network, image, label, eps, dtype=dtype):
            assert robust_in_float32(network, image, label, eps, flush=False)
            assert robust_in_float32(network, image, label, eps, flush=True)


@pytest.mark.parametrize("scales", [(1e-38,) * 6, (1e-45, 1e-45, 1e-45, 1e-45)])
@pytest.mark.parametrize("seed", seeds(3, 6))
def test_radii_do_not_vanish_in_real_numbers_either(scales: tuple[float, ...], seed: int) -> None:
    """The squares of what moves are zero in float64; a radius of a thousand leaves nothing robust."""
    network = random_chain(scales, seed)
    image = torch.rand(1, 3, generator=torch.Generator().manual_seed(seed))
    assert not certified(network, image, label_of(network, image), 1e3, Semantics.REAL)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-170, 1e-100, 1e100, 1e150])
@pytest.mark.parametrize("semantics", Semantics)
@pytest.mark.parametrize("seed", seeds(2, 4))
def test_radii_do_not_vanish_in_networks_of_float64(scale: float, semantics: Semantics, seed: int) -> None:
    network = random_chain((scale, 1.0), seed, torch.float64)
    image = torch.rand(1, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert not certified(network, image, label_of(network, image), 1e3, semantics)


def test_moderate_scales_lose_no_certificate() -> None:
    network = chain((1e-12 * torch.eye(2), None), (1e12 * torch.eye(2), None))
    assert certified(network, row(0.9, 0.1), 0, 0.1)


@pytest.mark.parametrize("huge", [1e8, -1e8, 1e4])
def test_large_biases_that_cancel(huge: float) -> None:
    """`(x + 1e8) - 1e8` is a multiple of 8 in float32: the answer is lost, whatever the ball."""
    first = (torch.eye(2), torch.full((2,), huge))
    difference = (torch.eye(2), torch.full((2,), -huge))
    node = apply(Linear(*difference), apply(Linear(*first), apply(Input((2,)))))
    assert not certified(Network(node), row(0.9 if abs(huge) > 1e6 else 0.0001, 0.0), 0, 1e-6)
    assert certified(Network(node), row(0.9, 0.1), 0, 0.05, Semantics.REAL)


def switch(size: float, gain: float) -> Network:
    """`(x_0 + size) - size` in two steps, amplified: x_0 in real numbers, zero in float32 where size is large."""
    first = (matrix((1.0, 0.0), (0.0, 1.0), (1.0, 0.0)), torch.tensor([size, 0.0, 0.0]))
    second = (matrix((gain, 0.0, 0.0), (0.0, 1.0, 0.0)), torch.tensor([-gain * size, 0.5]))
    return chain(first, second)


def test_a_switch_that_is_on_in_real_numbers_only() -> None:
    network, image = switch(2.0**26, 10.0), row(0.9, 0.2)
    assert label_of(network, image) == 0
    assert int(network(image).argmax(1)) == 1
    assert not certified(network, image, 0, 0.01)
    assert not certified(network, image, 1, 0.01)
    assert certified(network, image, 0, 0.01, Semantics.REAL)
    assert not certified(network, image, 1, 0.01, Semantics.REAL)


def test_a_switch_that_is_on_in_float32_only() -> None:
    """The same with its sign turned: label 1 in real numbers, and 0 in float32, where -10 x_0 vanishes."""
    first = (matrix((1.0, 0.0), (0.0, 1.0)), torch.tensor([2.0**26, 0.0]))
    second = (matrix((-10.0, 0.0), (0.0, 1.0)), torch.tensor([10.0 * 2.0**26, -0.5]))
    network, image = chain(first, second), row(0.9, 0.2)
    assert label_of(network, image) == 1
    assert int(network(image).argmax(1)) == 0
    for label in (0, 1):
        assert not certified(network, image, label, 0.01)
    assert certified(network, image, 1, 0.01, Semantics.REAL)


def test_a_switch_in_the_order_of_summation() -> None:
    """1e8 - 1e8 + x is x in one order and nothing in another."""
    weight = matrix((1e8, 1.0, -1e8, 0.0), (0.0, 0.0, 0.0, 1.0))
    network, image = Network(apply(Linear(weight), apply(Input((4,))))), row(0.5, 0.9, 0.5, 0.1)
    answers = {int(in_float32(network, image, o)[network.output].argmax(1)) for o in ORDERS.values()}
    assert answers == {0, 1}
    for label in (0, 1):
        assert not certified(network, image, label, 1e-12)


@pytest.mark.parametrize("theta", [30.0, 300.0])
def test_thresholds_that_are_taken_by_sums_round(theta: float) -> None:
    """`t - relu(t - x)` is the minimum of x and t, up to what t rounds away."""

    class Reflected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.theta = torch.tensor(theta)

        def forward(self, x: Tensor) -> Tensor:
            return (self.theta - torch.relu(self.theta - x)) @ torch.eye(2)

    class Excess(Reflected):
        def forward(self, x: Tensor) -> Tensor:
            return (x - torch.relu(x + self.theta)) @ torch.eye(2)  # the minimum of x and -theta

    for kind in (Reflected, Excess):
        module = kind().eval()
        network = llcert.from_torch(module, torch.rand(1, 2))
        assert any(isinstance(n.op, Clamp) and n.op.high is not None for n in network.operators())
        lost = 0
        for gap in theta * 2.0 ** torch.arange(-30, -20):
            at = 0.3 if kind is Reflected else -theta + 0.3
            image = torch.tensor([[at + float(gap), at]])
            logits = module(image)
            if image[0, 0] > image[0, 1] and not bool(logits[0, 0] > logits[0, 1]):
                lost += 1
                assert not certified(network, image, 0, float(gap) / 1000), (kind.__name__, gap)
        assert lost


def test_a_threshold_taken_by_sums_still_certifies() -> None:
    theta = torch.tensor(1.0)

    class Reflected(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return theta - torch.relu(theta - torch.relu(x))

    network = llcert.from_torch(Reflected().eval(), torch.rand(1, 2))
    assert certified(network, row(0.9, 0.1), 0, 0.1)


@pytest.mark.parametrize("flush", [False, True])
def test_subnormal_weights_of_large_values(flush: bool) -> None:
    network = chain((2e37 * torch.eye(2), None), (2e-39 * torch.eye(2), torch.tensor([0.0, 1e-3])))
    image = row(0.9, 0.2)
    assert robust_in_float32(network, image, 0, 0.05, flush=flush) is not flush
    assert not certified(network, image, 0, 0.05)
    assert certified(network, image, 0, 0.05, Semantics.REAL)


def test_subnormal_pixels_and_large_weights() -> None:
    network = Network(apply(Linear(1e37 * torch.eye(2), torch.tensor([0.0, 1e-2])), apply(Input((2,)))))
    image = row(5e-39, 0.0)
    assert not robust_in_float32(network, image, 0, 1e-40, flush=True)
    assert not certified(network, image, 0, 1e-40)


def test_subnormal_thresholds() -> None:
    node = apply(Clamp(torch.tensor(0.0), torch.tensor([5e-39, 0.0])), apply(Input((2,))))
    network = Network(apply(Linear(1e37 * torch.eye(2), torch.tensor([0.0, 1e-2])), node))
    assert not certified(network, row(0.5, 0.5), 0, 0.1)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_subnormal_means_of_a_batch_norm(weight: float) -> None:
    """`(x - mean) factor` is -0.5, and 0 where the mean counts as zero; of a channel that is zero, too."""
    statistics = torch.tensor([5e37, 1.0]), torch.tensor([0.0, -0.3]), torch.tensor([1e-38, 0.0]), torch.ones(2)
    channel = apply(Linear(weight * torch.diag(torch.tensor([0.0, 1e-30]))), apply(Input((2,))))
    network, image = Network(apply(BatchNorm(*statistics, eps=0.0, spatial=0), channel)), row(0.5, 0.5)
    assert not robust_in_float32(network, image, 1, 0.05, flush=True)
    assert not certified(network, image, 1, 0.05)
    assert certified(network, image, 1, 0.05, Semantics.REAL)


def test_subnormal_slopes() -> None:
    node = apply(Leaky(torch.tensor(2e-39)), apply(Linear(-2e37 * torch.eye(2)), apply(Input((2,)))))
    network = Network(apply(Linear(-torch.eye(2), torch.tensor([0.0, 1e-3])), node))
    assert not certified(network, row(0.9, 0.1), 0, 0.05)


def _overflowing(then: Callable[[Node], Node]) -> Network:
    """Values of 1e60, of which float32 makes inf - inf; then bounded again."""
    large = apply(relu(), apply(Linear(1e30 * torch.eye(2)), apply(Input((2,)))))
    hidden = then(apply(Linear(matrix((1e30, -1e30), (1e30, -1e30))), large))
    return Network(apply(Linear(matrix((1.0, 0.0), (-1.0, 0.0)), torch.tensor([1.0, 0.0])), hidden))


BOUNDED: dict[str, Callable[[Node], Node]] = {
    "clamp": lambda n: apply(Clamp(torch.tensor(0.0), torch.tensor(1.0)), n),
    "shut": lambda n: apply(Clamp(torch.tensor(1.0), torch.tensor(1.0)), n),
    "sigmoid": lambda n: apply(Sigmoid(), n),
    "slope zero": lambda n: apply(Clamp(None, torch.tensor(1.0)), apply(Leaky(torch.tensor(0.0)), n)),
    "scaled back": lambda n: apply(Linear(1e-30 * torch.eye(2)), apply(Linear(1e-30 * torch.eye(2)), n)),
    "pairs": lambda n: apply(MaxMin(0, False, torch.tensor(1.0), torch.tensor(0.0)), n),
    "zero weights": lambda n: apply(Linear(torch.zeros(2, 2)), n),
    "clamp, then all": lambda n: apply(
        Add(),
        apply(Clamp(torch.tensor(0.0), torch.tensor(1.0)), n),
        apply(Clamp(torch.tensor(0.0), torch.tensor(0.0)), n),
    ),
}


@pytest.mark.parametrize("then", BOUNDED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_nan_in_float32_is_not_certified(then: str, dtype: torch.dtype) -> None:
    network, image = _overflowing(BOUNDED[then]), row(0.9, 0.2)
    assert bool(network(image).isnan().any())
    for label in (0, 1):
        assert not certified(network, image, label, 0.05, dtype=dtype)


SIZE = 100
COPIES = torch.full((SIZE, 1), 3.38e38 / SIZE)
"""Of which float32 holds the sum, but not that of 1.05 times these."""


def _batch_norm(weight: float, mean: float, variance: float) -> BatchNorm:
    numbers = (torch.tensor([x]) for x in (weight, 0.0, mean, variance))
    return BatchNorm(*numbers, eps=0.0, spatial=0)


ON_THE_WAY: dict[str, Callable[[Node], Node]] = {
    "the sum of a mean": lambda n: apply(Reduce((1,), 1 / SIZE), apply(Reshape((1, SIZE)), apply(Linear(COPIES), n))),
    "the sum of an average": lambda n: apply(
        Reshape((1,)), apply(SumPool((SIZE,), (SIZE,), 1 / SIZE), apply(Reshape((1, SIZE)), apply(Linear(COPIES), n)))
    ),
    "a difference from a mean": lambda n: apply(_batch_norm(1e-3, -2.7e38, 1.0), apply(Linear(row(6.9e37)), n)),
    "a factor of a batch norm": lambda n: apply(_batch_norm(1e36, 0.0, 1e-6), apply(Linear(row(1e-4)), n)),
}


@pytest.mark.parametrize("then", ON_THE_WAY)
def test_what_overflows_on_the_way_to_a_moderate_value(then: str) -> None:
    """At 1.05 float32 makes NaN or infinity of numbers that end at 1e37."""
    hidden = apply(relu(), apply(Linear(row(1e-18)), ON_THE_WAY[then](apply(Input((1,))))))
    network = Network(apply(Linear(matrix((0.0,), (1e-25,)), torch.tensor([0.5, 0.0])), hidden))
    assert not bool(network(row(1.05)).isfinite().all())
    assert not certified(network, row(1.0), 0, 0.06)
    assert certified(network, row(1.0), 0, 0.06, Semantics.REAL)
    assert certified(network, row(0.1), 0, 0.06) is ("sum" in then)


def test_a_minimum_by_sums_that_overflow() -> None:
    """`t - relu(t - z)` is -inf in float32 where `t - z` is infinite."""
    spelled = {s: Clamp(None, torch.tensor(3.3e38), s) for s in (Spelling.MINIMUM, Spelling.REFLECTED)}
    for spelling, clamp in spelled.items():
        node = apply(clamp, apply(Linear(1e37 * torch.eye(2)), apply(Input((2,)))))
        network = Network(apply(Linear(1e-17 * torch.eye(2)), apply(Linear(1e-20 * torch.eye(2)), node)))
        assert certified(network, row(-0.98, -1.5), 0, 0.1) is (spelling is Spelling.MINIMUM)


def _poisoned() -> dict[str, Network]:
    image = apply(Input((2,)))
    inf, nan = torch.tensor(torch.inf), torch.tensor(torch.nan)
    dead = apply(Clamp(torch.tensor(0.0), torch.tensor(0.0)), image)
    both = apply(Add(), apply(Affine(shift=inf), image), apply(Affine(shift=-inf), image))
    statistics = (torch.ones(2), torch.zeros(2), torch.tensor([torch.inf, 0.0]), torch.ones(2))
    logits = torch.tensor([5.0, 0.0])
    return {
        "0 * inf": Network(apply(Linear(torch.full((2, 2), torch.inf), logits), dead)),
        "inf - inf": Network(apply(Linear(torch.eye(2), logits), both)),
        "inf - inf, clamped": Network(
            apply(Linear(torch.eye(2), logits), apply(Clamp(torch.tensor(0.0), torch.tensor(1.0)), both))
        ),
        "a threshold of NaN": Network(apply(Linear(torch.eye(2), logits), apply(Clamp(torch.tensor(0.0), nan), image))),
        "a slope of NaN": Network(
            apply(Linear(torch.eye(2), logits), apply(Leaky(nan), apply(Affine(shift=-logits), image)))
        ),
        "a bias of NaN": Network(apply(Linear(torch.eye(2), torch.tensor([5.0, torch.nan])), image)),
        "an infinite mean": Network(
            apply(BatchNorm(*statistics, spatial=0), apply(Linear(torch.eye(2), logits), image))
        ),
        "infinite logits": Network(apply(Linear(torch.eye(2), torch.tensor([torch.inf, 0.0])), image)),
    }


@pytest.mark.parametrize("name", _poisoned())
@pytest.mark.parametrize("semantics", Semantics)
def test_layers_that_make_nan_certify_nothing(name: str, semantics: Semantics) -> None:
    for label in (0, 1):
        for eps in (0.0, 0.01):
            assert not certified(_poisoned()[name], row(0.6, 0.4), label, eps, semantics)


@pytest.mark.parametrize("semantics", Semantics)
@pytest.mark.parametrize("eps", [0.0, 1e-300, 0.1, 1e9])
def test_ties_are_not_certified(semantics: Semantics, eps: float) -> None:
    tied = chain((torch.eye(2), None), (torch.ones(3, 2), None))
    constant = Network(apply(Linear(torch.zeros(3, 2), torch.tensor([1.0, 1.0, 0.0])), apply(Input((2,)))))
    dead = chain((torch.eye(2), torch.full((2,), -1e12)), (torch.eye(2), None))
    for network in (tied, constant, dead):
        for label in range(network.classes):
            assert not certified(network, row(0.5, 0.5), label, eps, semantics)


@pytest.mark.parametrize("eps", [0.0, 1e-300, 0.1, 1e9])
def test_constant_logits_are_certified_for_their_first_label_alone(eps: float) -> None:
    network = chain((torch.zeros(2, 2), torch.ones(2)), (torch.eye(2), torch.tensor([0.5, 0.0])))
    assert certified(network, row(0.5, 0.5), 0, eps)
    assert not certified(network, row(0.5, 0.5), 1, eps)


@pytest.mark.parametrize("theta", [0.5, 0.1, 1 / 3])
@pytest.mark.parametrize("semantics", Semantics)
def test_a_threshold_on_the_edge_of_the_box(theta: float, semantics: Semantics) -> None:
    """The value reaches the threshold in one point, or passes it by the last bit: what lies beyond counts."""
    for nudge in (-1, 0, 1):
        bound = torch.nextafter(torch.tensor(theta), torch.tensor(float(nudge))) if nudge else torch.tensor(theta)
        node = apply(Clamp(torch.tensor(0.0), bound), apply(Input((1,))))
        network = Network(apply(Linear(matrix((1.0,), (0.0,)), torch.stack([-bound, torch.tensor(0.0)])), node))
        image = row(theta + 0.25)
        for eps in (0.25, 0.2500001, 0.1):
            assert not certified(network, image, 0, eps, semantics), "it ties with the constant at best"


@pytest.mark.parametrize("semantics", Semantics)
def test_a_margin_that_reaches_zero_on_the_edge(semantics: Semantics) -> None:
    """`x > 0.25` over |x - 0.5| <= 0.25 ties in one point."""
    network = Network(apply(Linear(matrix((1.0,), (0.0,)), torch.tensor([0.0, 0.25])), apply(Input((1,)))))
    assert not certified(network, row(0.5), 0, 0.25, semantics)
    assert not certified(network, row(0.5), 0, 0.25 * (1 + 1e-15), semantics)
    assert certified(network, row(0.5), 0, 0.25 * (1 - 1e-5), semantics)


@pytest.mark.parametrize("semantics", Semantics)
def test_no_and_boundless_room(semantics: Semantics) -> None:
    for seed in range(4):
        network = random_chain((1.0, 1.0), seed)
        image = torch.rand(1, 3, generator=torch.Generator().manual_seed(seed))
        logits = network(image.double())[0]
        label, gap = int(logits.argmax()), float((logits[0] - logits[1]).abs())
        clear = gap > 1e-3
        assert certified(network, image, label, 0.0, semantics) is clear
        assert certified(network, image, label, 1e-300, semantics) is clear
        assert not certified(network, image, label, 1e9, semantics)


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1e8, 1e30, 3e38])
def test_inputs_of_every_size(value: float) -> None:
    network = chain((torch.eye(2), None), (torch.eye(2), torch.tensor([0.0, 1e-3])))
    image = torch.full((1, 2), value)
    for label in (0, 1):
        if certified(network, image, label, 1e-4):
            assert robust_in_float32(network, image, label, 1e-4, flush=False)
            assert value in (0.0, -1.0, 1.0), "the logits differ by less than float32 resolves"


def test_huge_inputs_with_a_clear_answer() -> None:
    assert certified(chain((torch.eye(2), None), (torch.eye(2), None)), row(1e8, 0.0), 0, 1.0)


def test_a_single_pixel_and_two_classes() -> None:
    network = chain((matrix((1.0,), (-1.0,)), torch.tensor([-0.5, 0.5])), (matrix((1.0, 0.0), (0.0, 1.0)), None))
    assert certified(network, row(0.9), 0, 0.39)
    assert not certified(network, row(0.9), 0, 0.4)
    assert certified(network, row(0.1), 1, 0.39)
    assert not certified(network, row(0.1), 1, 0.41)


def test_a_sigmoid_in_its_tail_is_only_as_accurate_as_one() -> None:
    """Runtimes clip its argument: 1e-13 may come out as 1e-8."""
    node = apply(Sigmoid(), apply(Linear(torch.eye(2), torch.tensor([-30.0, -31.0])), apply(Input((2,)))))
    network = Network(apply(Linear(1e13 * torch.eye(2)), node))
    assert not certified(network, row(0.5, 0.5), 0, 1e-3)
    assert certified(network, row(0.5, 0.5), 0, 1e-3, Semantics.REAL)


def test_a_network_without_activations_is_answered() -> None:
    network = Network(apply(Linear(torch.eye(2)), apply(Input((2,)))))
    assert certified(network, row(0.9, 0.1), 0, 0.5)
    assert not certified(network, row(0.9, 0.1), 0, 0.6)


@pytest.mark.parametrize("assurance", list(Assurance))
def test_overflow_in_a_norm_certifies_nothing(assurance: Assurance) -> None:
    """A norm of 5e38 between entries that float32 holds: where its estimate overflows, nothing is known of it."""
    size = 30
    node = apply(relu(), apply(Linear(torch.full((1, size), 1e38), torch.zeros(1)), apply(Input((size,)))))
    network = Network(apply(Linear(torch.tensor([[1e-38], [0.0]]), torch.tensor([0.0, 0.35])), node))
    image = torch.full((1, size), 1 / size)
    certifier = Certifier.of(
        network, Settings(0.2, assurance=assurance, stages=("global", "local", "crown-ball", "crown-ball-intermediate"))
    )
    assert network(image - 0.2 / size**0.5).argmax(1) == 1
    (sample,) = certifier(image, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)).samples
    assert sample.verdict is Verdict.UNDECIDED
