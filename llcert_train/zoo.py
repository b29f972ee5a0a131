"""The paper's networks and a few small ones as plain torch modules: any input shape, any number of classes."""

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from llcert.errors import InvalidInput
from llcert_train.settings import Initial


class ActivationKind(enum.StrEnum):
    """The activations a network of the zoo can have, by the name `build` takes."""

    RELU = "relu"
    RELU_THETA = "relu-theta"
    MAXMIN = "maxmin"
    MAXMIN_CLIPPED = "maxmin-clipped"


class Centred(nn.Module):
    """Takes a mean colour off, which stays as it is. mean: `[*shape]` or `[channels, 1, 1]`, pixel units."""

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, *shape]`."""
        return x - self.mean


class ClippedReLU(nn.Module):
    """ReLU-theta, `min(max(z, 0), theta)` (eq. 8), one learnable threshold per neuron.

    theta: `[*shape]`, in units of the pre-activation. The formula is what it says only for `theta >= 0`: call
    `project` after each step of an optimiser.
    """

    def __init__(self, shape: Sequence[int], initial: float = 2.0) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.full(tuple(shape), initial))

    def forward(self, z: Tensor) -> Tensor:
        """`[batch, *shape]`, every entry between 0 and its threshold."""
        return torch.minimum(torch.relu(z), self.theta)

    @torch.no_grad()
    def project(self) -> None:
        """Moves negative thresholds to 0, in place."""
        self.theta.clamp_(min=0)


class MaxMin(nn.Module):
    """Channel i paired with channel i + c/2: the larger of each pair in the first half, the smaller in the second."""

    def forward(self, z: Tensor) -> Tensor:
        """`[batch, c, ...]`, a permutation of the entries of `z`; `c` must be even."""
        a, b = torch.chunk(z, 2, dim=1)
        return torch.cat((torch.maximum(a, b), torch.minimum(a, b)), dim=1)


class ClippedMaxMin(nn.Module):
    """MaxMin with its larger output held below `t_max` and its smaller output above `t_min`, learnable per neuron.

    t_max, t_min: `[c/2, ...]`, in units of the pre-activation, for inputs `[batch, c, ...]`.
    """

    def __init__(self, shape: Sequence[int], initial: float = 2.0) -> None:
        super().__init__()
        half = (shape[0] // 2, *shape[1:])
        self.t_max = nn.Parameter(torch.full(half, initial))
        self.t_min = nn.Parameter(torch.full(half, -initial))

    def forward(self, z: Tensor) -> Tensor:
        """`[batch, c, ...]`: `min(max(a, b), t_max)`, then `max(min(a, b), t_min)`."""
        a, b = torch.chunk(z, 2, dim=1)
        larger = torch.minimum(torch.maximum(a, b), self.t_max)
        smaller = torch.maximum(torch.minimum(a, b), self.t_min)
        return torch.cat((larger, smaller), dim=1)


class Residual(nn.Module):
    """`body(x) + skip(x)`, for two branches of one output shape."""

    def __init__(self, body: nn.Module, skip: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, *shape]`, the sum of both branches."""
        total: Tensor = self.body(x) + self.skip(x)
        return total


@dataclass(frozen=True)
class Conv:
    """A convolution with bias and an activation behind it; the defaults keep height and width."""

    width: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1


@dataclass(frozen=True)
class Block:
    """Two 3x3 convolutions with batch norm; the shortcut is a 1x1 convolution where the shape changes."""

    width: int
    stride: int = 1


@dataclass(frozen=True)
class Architecture:
    """What stands before the last layer, in order: features, then the widths of dense layers.

    batch_norm: whether plain convolutions have one; those of a `Block` always do.
    """

    features: tuple[Conv | Block, ...] = ()
    dense: tuple[int, ...] = ()
    batch_norm: bool = False


def _halve(width: int, *, padding: int = 1) -> Conv:
    return Conv(width, kernel=4, stride=2, padding=padding)


def _tiny_wide(width: int) -> tuple[Conv, ...]:
    return Conv(width), Conv(width), _halve(width, padding=0), Conv(2 * width)


def _eight(width: int) -> Architecture:
    """8C2F, from so many channels on."""
    wide, dense = (Conv(2 * width), _halve(2 * width, padding=0)), (4 * width,)
    return Architecture((*_tiny_wide(width), *wide, Conv(4 * width), _halve(4 * width, padding=0)), dense)


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "2C2F": Architecture((_halve(16), _halve(32)), (100,)),
        "4C3F": Architecture((Conv(32), _halve(32), Conv(64), _halve(64)), (512, 512)),
        "6C2F": Architecture((Conv(32), Conv(32), _halve(32), Conv(64), Conv(64), _halve(64)), (512,)),
        "6C2F-light": Architecture((Conv(32), _halve(32), Conv(64), _halve(64), Conv(64), _halve(64)), (512,)),
        "7C1F": Architecture((*_tiny_wide(64), _halve(128, padding=0), Conv(256), _halve(256, padding=0))),
        "8C2F": _eight(64),
        "8C2F-light": _eight(16),
        "mlp": Architecture(dense=(256, 128)),
        "tiny-conv": Architecture((_halve(8), _halve(16)), (64,)),
        "small-conv": Architecture((Conv(16), _halve(32)), (64,)),
        "residual-bn": Architecture((Conv(16), Block(16), Block(32, stride=2)), batch_norm=True),
    }
)
"""Every architecture `build` knows. 4C3F, 6C2F and 8C2F are those of the paper's released code, 2C2F is as deep as
the MNIST networks of GloRo (Leino et al. 2021). 6C2F-light halves the image twice as early as 6C2F and takes a quarter
of its products, 8C2F-light has a quarter of the channels of 8C2F. The paper's 7C1F (Tiny-ImageNet) is published
nowhere: ours is 8C2F without its fifth convolution and without the hidden dense layer."""


def build(
    arch: str,
    *,
    input_shape: Sequence[int],
    classes: int,
    activation: str = "relu",
    threshold: float = 2.0,
    mean: Tensor | None = None,
    initial: str = "kaiming",
) -> nn.Sequential:
    """The untrained network of that name, from `[batch, *input_shape]` to logits `[batch, classes]`.

    arch: a key of `ARCHITECTURES`. activation: a value of `ActivationKind`; widths are the same for all of them.
    threshold: where `theta` and `t_max` start, and minus that, `t_min`; in units of the pre-activation.
    mean: what is taken off the image first, pixel units. initial: a value of `Initial`. Under `kaiming` convolutions
    start as in the paper's released code: normal with variance `2 / (k^2 c_out)`, bias 0.
    Raises InvalidInput for an unknown name or an input the convolutions cannot take.
    """
    _check(arch, activation, (*(input_shape or (0,)), classes), threshold)
    plan = ARCHITECTURES[arch]
    stack = _Stack(arch, tuple(input_shape), ActivationKind(activation), threshold)
    if mean is not None:
        stack.layers.append(Centred(mean))
    for feature in plan.features:
        if isinstance(feature, Block):
            stack.block(feature)
        else:
            stack.conv(feature, batch_norm=plan.batch_norm)
            stack.activate()
    stack.flatten()
    for width in plan.dense:
        stack.dense(width)
        stack.activate()
    stack.dense(classes)
    network = nn.Sequential(*stack.layers)
    if Initial(initial) is Initial.ORTHOGONAL:
        network.apply(_orthogonal)
    return network


def _check(arch: str, activation: str, sizes: Sequence[int], threshold: float) -> None:
    """Raises InvalidInput for what no network can be built of. sizes: of images and classes."""
    if arch not in ARCHITECTURES:
        raise InvalidInput(f"unknown architecture {arch!r}; choose one of {', '.join(ARCHITECTURES)}")
    if activation not in list(ActivationKind):
        raise InvalidInput(f"unknown activation {activation!r}; choose one of {', '.join(ActivationKind)}")
    if any(size < 1 for size in sizes):
        raise InvalidInput(f"{arch}: input_shape and classes must be positive")
    if not (math.isfinite(threshold) and threshold >= 0):
        raise InvalidInput(f"{arch}: threshold must be finite and not negative, got {threshold}")


@torch.no_grad()
def _orthogonal(layer: nn.Module) -> None:
    """Orthogonal rows or columns: of norm one in a dense layer, and about that in a convolution of that kernel."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        matrix = nn.init.orthogonal_(torch.empty_like(layer.weight).flatten(1)).view_as(layer.weight)
        layer.weight.copy_(matrix / matrix.shape[-1] ** 0.5 if isinstance(layer, nn.Conv2d) else matrix)


class _Stack:
    """Layers in order and the shape `[*shape]` that the last of them returns."""

    def __init__(self, arch: str, shape: tuple[int, ...], activation: ActivationKind, threshold: float) -> None:
        self.arch = arch
        self.shape = shape
        self.activation = activation
        self.threshold = threshold
        self.layers: list[nn.Module] = []

    def fork(self) -> "_Stack":
        """An empty stack that starts where this one stands: a branch."""
        return _Stack(self.arch, self.shape, self.activation, self.threshold)

    def conv(self, conv: Conv, *, batch_norm: bool = False) -> None:
        if len(self.shape) != 3:
            raise InvalidInput(f"{self.arch}: input_shape must be (channels, height, width), got {self.shape}")
        channels, *extent = self.shape
        after = [(size + 2 * conv.padding - conv.kernel) // conv.stride + 1 for size in extent]
        if min(after) < 1:
            raise InvalidInput(f"{self.arch}: a {extent[0]}x{extent[1]} map is too small for a kernel of {conv.kernel}")
        layer = nn.Conv2d(channels, conv.width, conv.kernel, conv.stride, conv.padding)
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        self.layers.append(layer)
        if batch_norm:
            self.layers.append(nn.BatchNorm2d(conv.width))
        self.shape = (conv.width, *after)

    def block(self, block: Block) -> None:
        body, skip = self.fork(), self.fork()
        body.conv(Conv(block.width, stride=block.stride), batch_norm=True)
        body.activate()
        body.conv(Conv(block.width), batch_norm=True)
        if body.shape != self.shape:
            skip.conv(Conv(block.width, kernel=1, stride=block.stride, padding=0), batch_norm=True)
        self.layers.append(Residual(nn.Sequential(*body.layers), nn.Sequential(*skip.layers)))
        self.shape = body.shape
        self.activate()

    def flatten(self) -> None:
        if len(self.shape) > 1:
            self.layers.append(nn.Flatten())
            self.shape = (math.prod(self.shape),)

    def dense(self, width: int) -> None:
        self.layers.append(nn.Linear(self.shape[0], width))
        self.shape = (width,)

    def activate(self) -> None:
        match self.activation:
            case ActivationKind.RELU:
                self.layers.append(nn.ReLU())
            case ActivationKind.RELU_THETA:
                self.layers.append(ClippedReLU(self.shape, self.threshold))
            case ActivationKind.MAXMIN:
                self.layers.append(MaxMin())
            case ActivationKind.MAXMIN_CLIPPED:
                self.layers.append(ClippedMaxMin(self.shape, self.threshold))
