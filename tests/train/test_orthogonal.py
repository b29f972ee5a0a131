"""Orthogonal weights: singular values of the layers as dense matrices, gradients against differences, refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llcert.errors import InvalidInput
from llcert_train.orthogonal import Orthogonal, cayley, orthogonal

MATRICES = [(7, 3), (3, 7), (5, 5), (1, 6), (6, 1), (1, 1)]
CONVOLUTIONS = [
    ((16, 8, 3, 3), 1),
    ((8, 16, 3, 3), 1),
    ((5, 5, 3, 3), 1),
    ((6, 1, 3, 3), 1),
    ((1, 6, 3, 3), 1),
    ((1, 1, 3, 3), 1),
    ((4, 3, 4, 4), 1),
    ((3, 2, 5, 5), 1),
    ((4, 4, 1, 1), 1),
    ((6, 4, 4, 4), 2),
    ((16, 4, 4, 4), 2),
    ((20, 4, 4, 4), 2),
    ((3, 1, 2, 2), 2),
    ((7, 1, 6, 6), 2),
    ((5, 1, 6, 6), 3),
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_raw(construction: Orthogonal, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {name: raw.to(dtype).requires_grad_() for name, raw in construction.initial(generator()).items()}


def gram_error(Q: Tensor) -> float:
    """The largest entry of `Q^T Q - I`, or of `Q Q^T - I` for a wide matrix."""
    gram = Q.mT @ Q if Q.shape[-2] >= Q.shape[-1] else Q @ Q.mT
    return float((gram - torch.eye(gram.shape[-1], dtype=Q.dtype)).abs().max())


def layer_matrix(weight: Tensor, *, stride: int, size: int, padding: int | None) -> Tensor:
    """The convolution of a `size x size` image as a matrix; padding: of zeros, or None for a circular image."""
    channels, kernel = weight.shape[1], weight.shape[2]
    n = channels * size * size
    images = torch.eye(n, dtype=weight.dtype).reshape(n, channels, size, size)
    if padding is None:
        extra = kernel - stride
        images = F.pad(images, (0, extra, 0, extra), mode="circular")
    return F.conv2d(images, weight, stride=stride, padding=padding or 0).flatten(1).mT


@pytest.mark.parametrize(("m", "n"), MATRICES)
@pytest.mark.parametrize("scale", [0, 1e-3, 1, 30, 1e8])
def test_cayley_is_semi_orthogonal_at_every_scale(m: int, n: int, scale: float) -> None:
    raw = scale * torch.randn(m, n, dtype=torch.float64, generator=generator())
    assert cayley(raw).shape == (m, n)
    assert gram_error(cayley(raw)) < 1e-12
    assert gram_error(cayley(raw.float())) < 1e-4


@pytest.mark.parametrize(("m", "n"), MATRICES)
def test_cayley_takes_every_matrix_of_a_batch_alone(m: int, n: int) -> None:
    raw = torch.randn(2, 3, m, n, dtype=torch.float64, generator=generator())
    each = torch.stack([cayley(one) for one in raw.flatten(0, 1)]).reshape(raw.shape)
    torch.testing.assert_close(cayley(raw), each)


@pytest.mark.parametrize(("m", "n"), MATRICES)
def test_cayley_gradient(m: int, n: int) -> None:
    raw = torch.randn(m, n, dtype=torch.float64, generator=generator()).requires_grad_()
    assert torch.autograd.gradcheck(cayley, (raw,))


def test_cayley_turns_a_plane_by_any_angle_up_to_176_degrees() -> None:
    angle = torch.tensor(176 / 180 * torch.pi, dtype=torch.float64)
    goal = torch.tensor([[angle.cos(), angle.sin()], [-angle.sin(), angle.cos()]], dtype=torch.float64)
    unit = torch.tensor([[0, -1], [1, 0]], dtype=torch.float64)
    closest = min(float((cayley(length * unit) - goal).abs().max()) for length in torch.linspace(10, 200, 2000))
    assert closest < 1e-3


@pytest.mark.parametrize("shape", [(10, 4), (4, 10), (6, 6)])
def test_dense_weights_are_semi_orthogonal(shape: tuple[int, ...]) -> None:
    construction = orthogonal(shape)
    weight = construction(random_raw(construction))
    assert weight.shape == shape
    assert gram_error(weight.detach()) < 1e-12


@pytest.mark.parametrize(("shape", "stride"), CONVOLUTIONS)
def test_circular_convolution_has_only_singular_values_1(shape: tuple[int, ...], stride: int) -> None:
    construction = orthogonal(shape, (stride, stride))
    weight = construction(random_raw(construction)).detach()
    assert weight.shape == shape
    matrix = layer_matrix(weight, stride=stride, size=6, padding=None)
    assert (matrix.shape[0] >= matrix.shape[1]) == (shape[0] >= shape[1] * stride**2)
    values = torch.linalg.svdvals(matrix)
    torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("shape", "stride"), CONVOLUTIONS)
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_zero_padded_convolution_has_norm_at_most_1(shape: tuple[int, ...], stride: int, padding: int) -> None:
    construction = orthogonal(shape, (stride, stride))
    weight = construction(random_raw(construction)).detach()
    for size in (6, 7):
        matrix = layer_matrix(weight, stride=stride, size=size, padding=padding)
        assert float(torch.linalg.matrix_norm(matrix, 2)) <= 1 + 1e-10


@pytest.mark.parametrize(
    ("shape", "stride"), [((3, 2, 3, 3), 1), ((2, 3, 3, 3), 1), ((2, 1, 4, 4), 2), ((1, 1, 2, 2), 1)]
)
def test_gradient_of_a_kernel(shape: tuple[int, ...], stride: int) -> None:
    construction = orthogonal(shape, (stride, stride))
    names = list(construction.raw_shapes)

    def weight(*raw: Tensor) -> Tensor:
        return construction(dict(zip(names, raw, strict=True)))

    assert torch.autograd.gradcheck(weight, tuple(random_raw(construction).values()))


@pytest.mark.parametrize(("shape", "stride"), [((16, 8, 3, 3), 1), ((8, 16, 3, 3), 1), ((6, 4, 4, 4), 2)])
def test_every_tap_is_used_and_every_parameter_counts(shape: tuple[int, ...], stride: int) -> None:
    construction = orthogonal(shape, (stride, stride))
    raw = random_raw(construction)
    weight = construction(raw)
    assert weight.abs().amax(dim=(0, 1)).min() > 0.05
    (weight * torch.randn(shape, dtype=torch.float64, generator=generator(1))).sum().backward()
    assert all(value.grad is not None and bool((value.grad != 0).all()) for value in raw.values())


@pytest.mark.parametrize("kernel", [3, 5])
def test_one_channel_is_read_in_the_middle(kernel: int) -> None:
    construction = orthogonal((1, 1, kernel, kernel))
    expected = torch.zeros(1, 1, kernel, kernel, dtype=torch.float64)
    expected[..., kernel // 2, kernel // 2] = 1
    assert torch.equal(construction(random_raw(construction)), expected)


def test_a_strided_kernel_is_the_kernel_of_the_image_in_blocks() -> None:
    construction = orthogonal((6, 3, 4, 4), (2, 2))
    raw = random_raw(construction)
    blocks = orthogonal((6, 12, 2, 2))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=generator(1))
    expected = F.conv2d(F.pixel_unshuffle(x, 2), blocks(raw))
    torch.testing.assert_close(F.conv2d(x, construction(raw), stride=2), expected)


@pytest.mark.parametrize(("shape", "stride"), CONVOLUTIONS)
def test_float32(shape: tuple[int, ...], stride: int) -> None:
    construction = orthogonal(shape, (stride, stride))
    weight = construction(random_raw(construction, torch.float32)).detach()
    assert weight.dtype == torch.float32
    values = torch.linalg.svdvals(layer_matrix(weight.double(), stride=stride, size=6, padding=None))
    torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-5)


def test_initial_parameters_follow_the_generator() -> None:
    construction = orthogonal((8, 4, 3, 3))
    first, again, other = (construction.initial(generator(seed)) for seed in (0, 0, 1))
    assert {name: tuple(raw.shape) for name, raw in first.items()} == construction.raw_shapes
    assert all(raw.dtype == torch.float32 for raw in first.values())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_parameters_of_another_weight_are_refused() -> None:
    small, large = orthogonal((4, 2, 3, 3)), orthogonal((4, 2, 5, 5))
    with pytest.raises(InvalidInput, match=r"\(4, 2, 5, 5\).*parameters"):
        large(small.initial(generator()))


@pytest.mark.parametrize(
    ("shape", "stride", "help_text"),
    [
        ((4,), (), "2-d convolution"),
        ((4, 2, 3), (1,), "2-d convolution"),
        ((4, 2, 3, 3, 3), (1, 1, 1), "2-d convolution"),
        ((4, 2, 3, 5), (1, 1), "square kernel"),
        ((4, 2, 4, 4), (1, 2), "one stride"),
        ((4, 2, 4, 4), (2,), "one stride"),
        ((4, 2, 3, 3), (2, 2), "such as 4"),
        ((4, 2, 1, 1), (2, 2), "such as 2"),
        ((4, 2), (1,), "no stride"),
        ((0, 2), (), "positive"),
        ((4, 2, 3, 3), (0, 0), "positive"),
    ],
)
def test_unsupported_shapes_are_refused(shape: tuple[int, ...], stride: tuple[int, ...], help_text: str) -> None:
    with pytest.raises(InvalidInput, match=help_text) as refusal:
        orthogonal(shape, stride)
    message = str(refusal.value)
    assert str(shape) in message
    assert "\n" not in message
