"""The function that `real` speaks of is the one a file states: quotients and products of coefficients, exactly.

Every network is evaluated in rational numbers, by the definition of its operators and by no code of llcert's; the
proved enclosure of a single point must hold that value, and is narrower than one rounding to float32 would make it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from modules import Lambda
from onnx_text import imported, noise
from proofs import proved
from torch import Tensor, nn

import llcert
from llcert.bounds.forward.outward import enclosing_ball
from llcert.frontend.adapt import adapt
from llcert.ir import Input, Network, apply
from llcert.ops import Linear

Exact = list[Fraction]
THIRD = float(torch.tensor(1.0) / 3)
X = [0.7, -1.3, 2.1, 0.4, -0.6, 3.3]


def exact(values: Tensor) -> Exact:
    return [Fraction(float(v)) for v in values.flatten()]


def holds(network: Network, image: Tensor, value: Exact) -> None:
    """Asserts that the enclosure of one point holds the exact value, and nothing that float32 could tell from it."""
    program, trace = proved(network, image, 0.0, deployed=False)
    region = trace.post_activation[program.output].region
    assert region.lower.numel() == len(value)
    for low, high, v in zip(region.lower.flatten(), region.upper.flatten(), value, strict=True):
        assert Fraction(float(low)) <= v <= Fraction(float(high))
        assert float(high - low) < 1e-9 * (1 + abs(float(v)))


SCALES = torch.tensor([3.0, 7.0, -11.0, 0.1, 1e-3, 5.0])
COEFFICIENT = torch.tensor([0.3, 0.7, 1.1, 0.9, 1.7, 1.3])
W = noise(6, 6)

FILES: dict[str, tuple[str, dict[str, Tensor], Callable[[Exact], Exact]]] = {
    "a quotient": ("y = Div(x, d)", {"d": SCALES}, lambda x: [a / b for a, b in zip(x, exact(SCALES), strict=True)]),
    "a power of two": ("y = Div(x, d)", {"d": torch.tensor([4.0])}, lambda x: [a / 4 for a in x]),
    "a mean of three": ("y = Mean(x, x, z)", {"z": torch.zeros(1)}, lambda x: [2 * a / 3 for a in x]),
    "a sum over three": (
        "r = Reshape(x, pairs) s = ReduceSum<keepdims=0>(r, axis) q = Div(s, three) y = Mul(q, d)",
        {"pairs": torch.tensor([-1, 2, 3]), "axis": torch.tensor([2]), "three": torch.tensor([3.0]), "d": SCALES[:2]},
        lambda x: [sum(x[3 * i : 3 * i + 3]) / 3 * d for i, d in enumerate(exact(SCALES[:2]))],
    ),
    "a mean, scaled": (
        "r = Reshape(x, pairs) s = ReduceMean<axes=[1], keepdims=0>(r) y = Mul(s, tenth)",
        {"pairs": torch.tensor([-1, 3, 2]), "tenth": torch.tensor([0.1])},
        lambda x: [sum(x[i::2]) / 3 * Fraction(float(torch.tensor(0.1))) for i in range(2)],
    ),
    "alpha and beta": (
        "y = Gemm<alpha=0.3, beta=0.7>(x, w, c)",
        {"w": W, "c": COEFFICIENT},
        lambda x: [
            Fraction(float(torch.tensor(0.3))) * sum(a * Fraction(float(W[i, j])) for i, a in enumerate(x))
            + Fraction(float(torch.tensor(0.7))) * exact(COEFFICIENT)[j]
            for j in range(6)
        ],
    ),
    "a slope": (
        "y = LeakyRelu(x)",
        {},
        lambda x: [a if a >= 0 else a * Fraction(float(torch.tensor(0.01))) for a in x],
    ),
    "a hard sigmoid": (
        "y = HardSigmoid(x)",
        {},
        lambda x: [
            max(Fraction(0), min(Fraction(1), a * Fraction(float(torch.tensor(0.2))) + Fraction(1, 2))) for a in x
        ],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_keeps_its_function(name: str, tmp_path: Path) -> None:
    body, constants, function = FILES[name]
    image = torch.tensor([X])
    network = imported(tmp_path, body, constants, image="float[N,6] x")
    holds(network, image, function(exact(image)))


POOLS = {
    "three by one": ("kernel_shape=[3, 1], strides=[1, 1]", 0, False),
    "borders that do not count": ("kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]", 1, False),
    "borders that count": ("kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1], count_include_pad=1", 1, True),
}


@pytest.mark.parametrize("name", POOLS)
def test_average_pools_divide(name: str, tmp_path: Path) -> None:
    attributes, pad, counted = POOLS[name]
    kernel = (3, 1) if "3, 1" in attributes else (3, 3)
    image = noise(1, 1, 3, 4)
    network = imported(tmp_path, f"p = AveragePool<{attributes}>(x) y = Flatten(p)", image="float[N,1,3,4] x")
    x = {(i, j): Fraction(float(image[0, 0, i, j])) for i in range(3) for j in range(4)}
    value = []
    for i in range(-pad, 3 + pad - kernel[0] + 1):
        for j in range(-pad, 4 + pad - kernel[1] + 1):
            places = [(i + a, j + b) for a in range(kernel[0]) for b in range(kernel[1])]
            seen = [x[p] for p in places if p in x]
            value.append(sum(seen, Fraction(0)) / (len(places) if counted else len(seen)))
    holds(network, image, value)


def test_global_averages_divide(tmp_path: Path) -> None:
    image = noise(1, 2, 3, 7)
    network = imported(tmp_path, "p = GlobalAveragePool(x) y = Flatten(p)", image="float[N,2,3,7] x")
    holds(network, image, [sum(exact(image[0, c]), Fraction(0)) / 21 for c in range(2)])


def root(value: Fraction) -> Fraction:
    """The square root to 200 binary digits."""
    scale = 1 << 400
    return Fraction(math.isqrt(value.numerator * scale // value.denominator), 1 << 200)


def test_batch_normalisation_has_the_epsilon_of_the_runtime(tmp_path: Path) -> None:
    """1e-5 left out is the float32 number nearest to it, which shows where the variance is small."""
    variance = torch.tensor([1e-7, 1e-5, 0.3, 2.0, 0.0, 1.0])
    constants = {"s": noise(6, seed=1), "b": noise(6, seed=2), "m": noise(6, seed=3), "v": variance}
    network = imported(tmp_path, "y = BatchNormalization(x, s, b, m, v)", constants, image="float[N,6] x")
    image = torch.tensor([X])
    s, b, m, v = (exact(constants[k]) for k in "sbmv")
    eps = Fraction(float(torch.tensor(1e-5)))
    value = [
        (x - mean) * scale / root(var + eps) + shift
        for x, scale, shift, mean, var in zip(exact(image), s, b, m, v, strict=True)
    ]
    holds(network, image, value)


TENTH = Fraction(float(torch.tensor(0.1)))
MODULES: dict[str, tuple[nn.Module, Callable[[Exact], Exact]]] = {
    "a quotient": (Lambda(lambda x: x / 3), lambda x: [a / 3 for a in x]),
    "a mean": (
        Lambda(lambda x: x.reshape(-1, 2, 3).mean(2)),
        lambda x: [sum(x[:3]) / 3, sum(x[3:]) / 3],
    ),
    "a hard sigmoid": (
        nn.Hardsigmoid(),
        lambda x: [max(Fraction(0), min(Fraction(6), a + 3)) / 6 for a in x],
    ),
    "alpha of a sum": (
        Lambda(lambda x, c: torch.add(x, c, alpha=0.1), COEFFICIENT),
        lambda x: [a + c * TENTH for a, c in zip(x, exact(COEFFICIENT), strict=True)],
    ),
    "alpha and beta": (
        Lambda(lambda x, c, w: torch.addmm(c, x, w, alpha=0.1, beta=0.1), COEFFICIENT, W),
        lambda x: [
            TENTH * (sum(a * Fraction(float(W[i, j])) for i, a in enumerate(x)) + exact(COEFFICIENT)[j])
            for j in range(6)
        ],
    ),
    "uneven windows": (
        Lambda(lambda x: nn.functional.adaptive_avg_pool1d(x[:, None, :5], 3)[:, 0]),
        lambda x: [(x[0] + x[1]) / 2, (x[1] + x[2] + x[3]) / 3, (x[3] + x[4]) / 2],
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_keeps_its_function(name: str) -> None:
    module, function = MODULES[name]
    image = torch.tensor([X])
    holds(llcert.from_torch(module, image), image, function(exact(image)))


def test_given_mean_and_std_are_the_numbers_that_were_given() -> None:
    mean, std = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
    network = Network(apply(Linear(torch.eye(3)), apply(Input((3,)))))
    adapted, _ = adapt(network, (3,), mean=mean, std=std)
    image = torch.tensor([X[:3]])
    value = [(x - Fraction(m)) / Fraction(s) for x, m, s in zip(exact(image), mean, std, strict=True)]
    holds(adapted, image, value)


def test_the_kind_of_fault_would_show() -> None:
    """A third in float32 is no third for the enclosure that these tests ask."""
    network = Network(apply(Linear(torch.tensor([[THIRD]])), apply(Input((1,)))))
    image = torch.ones(1, 1)
    assert enclosing_ball(image.double(), 0.0).radius.item() < 1e-15
    with pytest.raises(AssertionError):
        holds(network, image, [Fraction(1, 3)])


def test_a_certificate_under_real_is_of_the_stated_function(tmp_path: Path) -> None:
    """`100 (x / 3 - x fl(1/3))` is 1e-6 below what rounding at import makes of it, which is zero."""
    body = "a = Div(x, three) b = Mul(x, c) d = Sub(a, b) y = Gemm(d, w, shift)"
    constants = {"three": torch.tensor([3.0]), "c": torch.tensor([THIRD]), "w": torch.tensor([[1e2, 0.0]])}
    for shift, certified in ((5e-7, False), (2e-6, True)):
        constants["shift"] = torch.tensor([1.0 + shift, 1.0])
        network = imported(tmp_path, body, constants, image="float[N,1] x")
        exact_margin = 100 * (Fraction(1, 3) - Fraction(THIRD)) + Fraction(float(constants["shift"][0])) - 1
        assert (exact_margin > 0) is certified
        report = llcert.certify(
            network, (torch.ones(1, 1), torch.tensor([0])), eps="0.0001", semantics="real", assurance="deterministic"
        )
        assert (report.samples[0].verdict.value == "certified") is certified
