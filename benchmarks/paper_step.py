"""The rival of training.py: the paper's training step as one writes it down first (Huang et al. 2021, Algorithm 1).

Plain torch on the modules of the zoo, eager, ReLU-theta networks in a row. For each layer the box by centre and
half-width, cut by the ball with the row norms of the whole layer (BCP), 0/1 masks (eq. 9), and the masked norm of every
image by power iteration, v and u both made unit vectors, the last product with a gradient. Margins and losses are
llcert's, which take a hundredth of either step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llcert.bounds.margin import largest_increase
from llcert.domain.region import MaskedRegion, Region
from llcert_train import losses
from llcert_train.zoo import ClippedReLU

Linear = nn.Conv2d | nn.Linear


@dataclass
class PaperStep:
    """One step after another. saved: whether iterations start from the vectors of the step before, or at random.

    gloro: the loss of Local-Lip-G in place of Local-Lip-B's. radius: in pixel units.
    """

    network: nn.Sequential
    radius: float
    iterations: int
    gloro: bool
    saved: bool

    def __post_init__(self) -> None:
        self.optimiser = torch.optim.Adam(self.network.parameters())
        self.vectors: dict[nn.Module, Tensor] = {}

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss; images: `[batch, *shape]`, always the same ones."""
        self.optimiser.zero_grad()
        loss = self._loss(images, labels)
        loss.backward()
        self.optimiser.step()
        for layer in self.network:
            if isinstance(layer, ClippedReLU):
                layer.project()
        return loss.detach()

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        *hidden, last = self.network
        assert isinstance(last, nn.Linear)
        region = self._last_region(hidden, images)
        logits = last(region.centre)
        differences = last.weight - last.weight[labels][:, None]
        if self.gloro:
            increase = differences.norm(dim=2) * region.radius[:, None]
        else:
            increase = largest_increase(
                differences, MaskedRegion(region, torch.ones_like(region.centre, dtype=torch.bool))
            )
        margins = logits.gather(1, labels[:, None]) - logits - increase
        worst = losses.worst_logits(logits, labels, margins)
        return losses.gloro(logits, worst, labels) if self.gloro else losses.worst_case(worst, labels)

    def _last_region(self, layers: Sequence[nn.Module], images: Tensor) -> Region:
        """Box and ball of the last hidden value."""
        c, lower, upper = images, images - self.radius, images + self.radius
        radius = images.new_full((len(images),), self.radius)
        columns = torch.ones_like(images)
        for number, layer in enumerate(layers):
            if isinstance(layer, nn.Flatten):
                c, lower, upper, columns = (x.flatten(1) for x in (c, lower, upper, columns))
            elif isinstance(layer, Linear):
                activation = layers[number + 1]
                assert isinstance(activation, ClippedReLU)
                c, lower, upper = _box(layer, c, lower, upper, radius)
                rows = ((upper > 0) & (lower < activation.theta)).to(c.dtype)
                radius = self._norm(layer, rows, columns) * radius
                c, lower, upper = activation(c), activation(lower), activation(upper)
                lower, upper = (
                    torch.maximum(lower, c - _spread(radius, c)),
                    torch.minimum(upper, c + _spread(radius, c)),
                )
                columns = rows
        return Region(c, lower, upper, radius)

    def _norm(self, layer: Linear, rows: Tensor, columns: Tensor) -> Tensor:
        """The masked layer's norm for each image, from below."""
        with torch.no_grad():
            u = self.vectors[layer] if self.saved and layer in self.vectors else torch.randn_like(columns)
            u = _unit(u * columns)
            for _ in range(self.iterations):
                v = _unit(_apply(layer, u * columns, layer.weight) * rows)
                u = _unit(_adjoint(layer, v * rows, columns.shape) * columns)
            self.vectors[layer] = u
            v = _unit(_apply(layer, u * columns, layer.weight) * rows)
        return (v * rows * _apply(layer, u * columns, layer.weight)).flatten(1).sum(1)


def _box(layer: Linear, centre: Tensor, lower: Tensor, upper: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre and box of a layer's value."""
    middle, half = layer((lower + upper) / 2), _apply(layer, (upper - lower) / 2, layer.weight.abs())
    centre, reach = layer(centre), _spread(radius, middle) * _row_norms(layer, centre)
    return centre, torch.maximum(middle - half, centre - reach), torch.minimum(middle + half, centre + reach)


def _row_norms(layer: Linear, x: Tensor) -> Tensor:
    return _apply(layer, torch.ones_like(x[:1]), layer.weight.square()).sqrt()


def _apply(layer: Linear, x: Tensor, weight: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    return F.conv2d(x, weight, None, layer.stride, layer.padding)


def _adjoint(layer: Linear, y: Tensor, shape: torch.Size) -> Tensor:
    if isinstance(layer, nn.Linear):
        return y @ layer.weight
    return torch.nn.grad.conv2d_input(shape, layer.weight, y, layer.stride, layer.padding)


def _unit(x: Tensor) -> Tensor:
    return x / _spread(x.flatten(1).norm(dim=1), x).clamp(min=1e-30)


def _spread(per_image: Tensor, like: Tensor) -> Tensor:
    return per_image.reshape(-1, *[1] * (like.ndim - 1))
