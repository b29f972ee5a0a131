"""What becomes of an imported network's activations before it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from llcert.data import Dataset
from llcert.errors import InvalidInput
from llcert.ir import Network
from llcert_train.data import some_images
from llcert_train.rewrites import clipped, folded, with_maxmin
from llcert_train.settings import Activation, BatchNorm, Granularity, Recipe

_MOST_LOST = 0.005
"""Share of the training images whose class surgery may change for the worse."""

_CLIPPED_ON, _CHUNK = 2048, 256

Fit = Callable[[Network], tuple[Network, tuple[str, ...]]]
"""Puts what images need in front of a network; the network, and notes on it."""


def operated(network: Network, train: Dataset, recipe: Recipe, fit: Fit) -> tuple[Network, tuple[str, ...]]:
    """The network after surgery, and what that did to it."""
    if recipe.activation not in list(Activation):
        raise InvalidInput(f"activation {recipe.activation[:40]!r}: choose {', '.join(Activation)}")
    if recipe.orthogonal:
        raise InvalidInput("orthogonal: only new networks can have orthogonal weights; use llcert train")
    before = network
    if recipe.batch_norm is BatchNorm.FOLD:
        network = folded(network)
    if recipe.activation == Activation.KEEP:
        return network, ()
    if recipe.activation in (Activation.MAXMIN, Activation.MAXMIN_CLIPPED):
        network = with_maxmin(network)
    front = fit(dataclasses.replace(before, output=before.input))[0]
    images, labels = some_images(train, _CLIPPED_ON, recipe.seed)
    entering = [front(part) for part in images.to(network.dtype).split(_CHUNK)]
    if recipe.activation == Activation.MAXMIN:
        return network, (_cost_of_surgery(recipe.activation, before, network, entering, labels),)
    return _clipped(before, network, entering, labels, recipe)


def _clipped(
    before: Network, network: Network, entering: list[Tensor], labels: Tensor, recipe: Recipe
) -> tuple[Network, tuple[str, ...]]:
    """With thresholds that hardly any image reaches; out of reach of all of them where that would cost accuracy."""
    per_channel = recipe.per is Granularity.CHANNEL
    old = _accuracy(network, entering, labels)
    for quantile in (recipe.quantile, 1.0):
        result = clipped(network, entering, quantile=quantile, per_channel=per_channel)
        new = _accuracy(result, entering, labels)
        if new >= old - _MOST_LOST:
            break
    return result, (_cost_of_surgery(f"{recipe.activation}, quantile {quantile:g}", before, result, entering, labels),)


def _cost_of_surgery(words: str, before: Network, after: Network, entering: list[Tensor], labels: Tensor) -> str:
    """A line for the user."""
    old, new = (100 * _accuracy(network, entering, labels) for network in (before, after))
    return f"surgery ({words}): clean accuracy on {len(labels):,} training images {old:.1f} % before, {new:.1f} % after"


@torch.no_grad()
def _accuracy(network: Network, batches: list[Tensor], labels: Tensor) -> float:
    right = torch.cat([network(part).argmax(1) for part in batches]) == labels
    return float(right.double().mean())
