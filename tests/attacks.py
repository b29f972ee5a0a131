"""Attacks with the words of a test."""

from __future__ import annotations

import torch
from torch import Tensor

from llcert.certification import FIRST, PGD, Adversary, Attacked, Perturbations, Specification, Target
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
    return pgd(Target(program, program.logits, specification), around, labels, seed + torch.arange(len(images)))


def adversary(program: Program, specification: Specification = FIRST) -> Adversary:
    """Who may use every point of the balls, and whose findings count by the program's own arithmetic."""
    return Adversary(Target(program, program.logits, specification))
