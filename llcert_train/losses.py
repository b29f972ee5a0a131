"""Robust losses: each a function of logits and of worst logits, with its source.

logits: `[batch, classes]`, at the images themselves. worst: `[batch, classes]`, upper bounds on the wrong logits over
the ball, relative to the true one at its value at the image (see `worst_logits`). labels: `[batch]`.
Every loss is the mean over the batch, a scalar, dimensionless.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_CONSTANT = 1e-12
"""A Lipschitz constant of two logits whose difference no image changes: it has no radius."""


def worst_logits(logits: Tensor, labels: Tensor, margins: Tensor) -> Tensor:
    """The worst logits that margins allow, `[batch, classes]`: `z_y - margin_j`, and `z_y` for the true class.

    margins: lower bounds on `z_y - z_j` over the ball, `[batch, classes]`, infinite for j = y.
    """
    own = F.one_hot(labels, logits.shape[1]).bool()
    truth = logits.gather(1, labels[:, None])
    return torch.where(own, truth, truth - torch.where(own, torch.zeros_like(margins), margins))


def clean(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy at the images themselves."""
    return F.cross_entropy(logits, labels)


def worst_case(worst: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the worst logits: the form of LMT (Tsuzuku et al. 2018), IBP (Gowal et al. 2018) and BCP (Lee et
    al. 2020), which differ in how they bound the logits."""
    return F.cross_entropy(worst, labels)


def raised(logits: Tensor, worst: Tensor, labels: Tensor) -> Tensor:
    """Logits raised only as far as their class still loses, `[batch, classes]` (EMMA; Hu et al., NeurIPS 2023).

    Each wrong class gets its own radius, at most the full one and at most what lifts it level with the true class; no
    gradient goes through the choice of the radius.
    """
    increase = worst - logits
    behind = (logits.gather(1, labels[:, None]) - logits).detach()
    share = torch.where(increase > 0, behind / increase.detach().clamp(min=torch.finfo(increase.dtype).tiny), 1.0)
    return logits + share.clamp(0, 1) * increase


def gloro(logits: Tensor, worst: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with one more class, whose logit is the largest wrong one (Leino et al. 2021, who leave out the
    predicted class where this leaves out the true one)."""
    own = F.one_hot(labels, logits.shape[1]).bool()
    rival = worst.masked_fill(own, -torch.inf).amax(1, keepdim=True)
    return F.cross_entropy(torch.cat((logits, rival), 1), labels)


def emma(logits: Tensor, worst: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the raised logits (Hu et al., NeurIPS 2023)."""
    return F.cross_entropy(raised(logits, worst, labels), labels)


def crm(
    logits: Tensor,
    worst: Tensor,
    labels: Tensor,
    radius: float,
    *,
    weight: float,
    limit: float,
    sharpness: float,
    temperature: float = 1.0,
) -> Tensor:
    """Cross-entropy of the logits over the temperature, and what radii lack (certified radius maximisation, Fazlyab et
    al., NeurIPS 2023, section 4).

    The radius of a pair of classes is its margin over its Lipschitz constant, `R_j = (z_y - z_j) / L_yj`, in pixel
    units; `weight / sharpness * logsumexp_j(-sharpness R_j)` is added up over the images whose least radius is below
    the limit, and divided by all. radius: at which `worst` was computed, from which the constants are read.
    """
    constants = (worst - logits) / radius
    left_out = F.one_hot(labels, logits.shape[1]).bool() | (constants.detach() <= _CONSTANT)
    radii = (logits.gather(1, labels[:, None]) - logits) / constants.masked_fill(left_out, 1.0)
    near = radii.detach().masked_fill(left_out, torch.inf).amin(1) < limit
    lacking = torch.logsumexp((-sharpness * radii).masked_fill(left_out, -torch.inf)[near], 1).sum() / len(logits)
    return clean(logits / temperature, labels) + weight / sharpness * lacking


def logit_annealing(z: Tensor, labels: Tensor, *, exponent: float, offset: float, temperature: float = 1.0) -> Tensor:
    """`-T (1 - p)^exponent log p`, p the true class's share of `softmax(z / T)`, its logit lowered by `offset` before.

    Logit annealing (Lai et al., ICML 2025, who apply it to `raised` logits) stops pulling where the margin is large
    already. z: `[batch, classes]`. temperature: T.
    """
    handicap = offset * F.one_hot(labels, z.shape[1]).to(z.dtype)
    log_p = F.log_softmax((z - handicap) / temperature, 1).gather(1, labels[:, None])[:, 0]
    missing = -torch.expm1(log_p)
    missing = missing.clamp(min=torch.finfo(missing.dtype).tiny)  # a power below 1 is infinitely steep at zero
    return -temperature * (missing**exponent * log_p).mean()


def sparsity(gaps: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean distance of an activation from being constant (eq. 12), added up over activations.

    gaps: for each activation its distances from each of its constant pieces, `[batch, *shape]`, pre-activation units;
    infinite where there is no such piece, which counts nothing. A mean over neurons and images, where the paper's
    formula leaves the scale open.
    """
    return torch.stack([torch.where(gap.isfinite(), gap, 0.0).clamp(min=0).mean() for own in gaps for gap in own]).sum()
