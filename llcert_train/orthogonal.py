"""Weights of dense layers and convolutions whose map has norm at most 1 by construction, in their usual shape."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llcert.errors import InvalidInput

_REACH = 16.0
"""Largest root-mean-square norm of a column in front of the Cayley transform: keeps `I + A` well conditioned and still
admits rotations by nearly 2 atan(32) = 176 degrees in every plane at once."""


def cayley(raw: Tensor) -> Tensor:
    """Semi-orthogonal matrices: orthonormal columns for `m >= n`, orthonormal rows otherwise, up to rounding.

    raw: `[..., m, n]`, unconstrained and finite; the result has its shape, dtype and device and is differentiable.
    Square results are rotations (determinant 1). Long `raw` is shortened smoothly first, so that its scale cannot spoil
    the linear system. Source: the rectangular Cayley transform of Trockman and Kolter (ICLR 2021), who rescale `raw` by
    a learnable norm instead.
    """
    if raw.shape[-2] < raw.shape[-1]:
        return cayley(raw.mT).mT
    n = raw.shape[-1]
    U, V = _shortened(raw).tensor_split([n], dim=-2)
    A = U - U.mT + V.mT @ V
    eye = torch.eye(n, dtype=raw.dtype, device=raw.device)
    return torch.linalg.solve(eye + A, torch.cat((eye - A, -2 * V), dim=-2), left=False)


def _shortened(raw: Tensor) -> Tensor:
    reach = _REACH * math.sqrt(max(raw.shape[-1], 1))
    squares = (raw / reach).square().sum(dim=(-2, -1), keepdim=True)
    return raw / torch.sqrt(1 + squares)


@dataclass(frozen=True)
class Orthogonal:
    """Maps unconstrained parameters to a weight whose layer has norm at most 1; `orthogonal` makes and checks it.

    shape: of the weight, `[out, in]` or `[out, in, k, k]`. stride: the same along both axes, a divisor of k.
    """

    shape: tuple[int, ...]
    stride: int = 1

    @property
    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter: `matrix` and, where `k > stride`, `projectors`.

        matrix: `[out, in * stride^2]`. projectors: `[k / stride - 1, 2, c, c // 2]` with c the larger of both sizes of
        the matrix; the second axis is that of the image, rows before columns. They are empty for c = 1, where the
        only orthogonal kernels read one pixel.
        """
        rows, columns = self.shape[0], self.shape[1] * self.stride**2
        shapes: dict[str, tuple[int, ...]] = {"matrix": (rows, columns)}
        channels = max(rows, columns)
        if self._taps > 1:
            shapes["projectors"] = (self._taps - 1, 2, channels, channels // 2)
        return shapes

    @property
    def _taps(self) -> int:
        """The kernel's size where the image lies as blocks of stride x stride pixels in the channels."""
        return self.shape[2] // self.stride if len(self.shape) > 2 else 1

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Random float32 parameters, normal with variance `1 / max(m, n)`: rotations far from the identity.

        The same generator state gives the same parameters; they are on the generator's device.
        """
        return {
            name: torch.randn(shape, generator=generator, device=generator.device) / math.sqrt(max(shape[-2:]))
            for name, shape in self.raw_shapes.items()
        }

    def __call__(self, raw: Mapping[str, Tensor]) -> Tensor:
        """The weight, `[*shape]`, differentiable in `raw`: its layer has norm at most 1 up to rounding.

        Dense: `cayley`. A convolution keeps every norm under circular padding where `out >= in * stride^2`, and is the
        adjoint of such a map otherwise; zero padding of any width can only lower norms. The kernel is a block
        convolution of the matrix with pairs `[P, I - P]` of projectors (Xiao et al., ICML 2018; BCOP, Li et al.,
        NeurIPS 2019). Raises InvalidInput for parameters that are not those of `raw_shapes`.
        """
        given = {name: tuple(value.shape) for name, value in raw.items()}
        if given != self.raw_shapes:
            raise InvalidInput(f"shape {self.shape}: parameters must have shapes {self.raw_shapes}, got {given}")
        matrix = cayley(raw["matrix"])
        if len(self.shape) == 2:
            return matrix
        wide = matrix.shape[0] < matrix.shape[1]
        kernel = (matrix.mT if wide else matrix)[:, :, None, None]
        if "projectors" in raw:
            kernel = _spread(kernel, cayley(raw["projectors"]))
        return self._pixels(kernel.transpose(0, 1) if wide else kernel)

    def _pixels(self, kernel: Tensor) -> Tensor:
        """`[*shape]` from `[out, in * stride^2, taps, taps]`: the kernel with its blocks of pixels laid out."""
        out, channels = self.shape[:2]
        s, taps = self.stride, self._taps
        blocks = kernel.reshape(out, channels, s, s, taps, taps)
        return blocks.permute(0, 1, 4, 2, 5, 3).reshape(self.shape)


def _spread(kernel: Tensor, bases: Tensor) -> Tensor:
    """`kernel`, `[c, d, 1, 1]`, behind all pairs of projectors onto the columns of `bases`, `[pairs, 2, c, c // 2]`."""
    for i, pair in enumerate(bases):
        for axis, basis in enumerate(pair):
            inside = torch.einsum("cr,er,edhw->cdhw", basis, basis, kernel)
            # Ranks differ for odd c: taking turns keeps the kernel's weight at its centre.
            first, second = (kernel - inside, inside) if i % 2 else (inside, kernel - inside)
            kernel = _shifted(first, axis, before=0) + _shifted(second, axis, before=1)
    return kernel


def _shifted(kernel: Tensor, axis: int, *, before: int) -> Tensor:
    """`kernel` with one more tap along an axis of the image, a zero behind or before the others."""
    widths = (before, 1 - before)
    return F.pad(kernel, (0, 0, *widths) if axis == 0 else (*widths, 0, 0))


def orthogonal(shape: tuple[int, ...], stride: tuple[int, ...] = ()) -> Orthogonal:
    """The construction of a weight of that shape, `[out, in]` for a dense layer or `[out, in, k, k]` for a convolution.

    stride: of the convolution, one for both axes; empty for 1 and for a dense layer. Groups and dilation must be 1,
    which the shape does not show. Raises InvalidInput for shapes and strides without a construction.
    """
    name = f"shape {tuple(shape)} with stride {tuple(stride)}" if stride else f"shape {tuple(shape)}"
    if len(shape) not in (2, 4):
        raise InvalidInput(f"{name} has no orthogonal construction; use [out, in] or a 2-d convolution")
    if min(*shape, *stride) < 1:
        raise InvalidInput(f"{name} has no orthogonal construction; use positive sizes")
    if len(shape) == 2:
        if stride:
            raise InvalidInput(f"{name} has no orthogonal construction; a dense layer has no stride, leave it out")
        return Orthogonal(tuple(shape))
    strides = tuple(stride) or (1, 1)
    if shape[2] != shape[3] or len(strides) != 2 or strides[0] != strides[1]:
        raise InvalidInput(f"{name} has no orthogonal construction; use a square kernel and one stride for both axes")
    kernel, step = shape[2], strides[0]
    if kernel % step:
        fitting = step * math.ceil(kernel / step)
        raise InvalidInput(
            f"{name} has no orthogonal construction; use a kernel that the stride divides, such as {fitting}"
        )
    return Orthogonal(tuple(shape), step)
