"""Attacks with the words of a test."""

from __future__ import annotations

import torch
from torch import Tensor

from llcert.certification import FIRST, PGD, Adversary, Attacked, Perturbations, Specification
from llcert.program import Program


def attacked(
    pgd: PGD,
    program: Program,
    images: Tensor,
    labels: Tensor,
    eps: float | Tensor,
    seed: int = 0,
    *,
    specification: Specification = FIRST,
    whole: bool = False,
) -> Attacked:
    """What PGD reaches in balls of radius eps, a number or `[batch]`; whole: also outside the pixel range."""
    radii = torch.as_tensor(eps, dtype=torch.float64).expand(len(images))
    around = (Perturbations.whole if whole else Perturbations.natural)(images, radii, program.dtype)
    return pgd(Adversary(program, specification=specification), around, labels, seed + torch.arange(len(images)))
