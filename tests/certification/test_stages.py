"""The stages global and local together: their bounds against points, and where numbers are of any size."""

from __future__ import annotations

import pytest
import torch
from batches import batch_of, decided
from torch import Tensor

from llcert.bounds import global_bound
from llcert.certification import Estimator, Global, Local
from llcert.certification.specification import FIRST
from llcert.ir import Input, Network, apply
from llcert.ops import Linear, relu
from llcert.program import Program, lower


def _net(seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Program:
    generator = torch.Generator().manual_seed(seed)
    node = apply(Input((3,)))
    for number, (before, after) in enumerate(((3, 8), (8, 8), (8, 3))):
        weight = torch.randn(after, before, generator=generator, dtype=torch.float64) * scale
        node = apply(Linear(weight.to(dtype), torch.zeros(after, dtype=dtype)), node)
        node = apply(relu(), node) if number < 2 else node
    return lower(Network(node), dtype=dtype)


def _batch(program: Program) -> tuple[Tensor, Tensor]:
    images = torch.rand(40, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(program.dtype)
    return images, program.logits(images).argmax(1)


@pytest.mark.parametrize("seed", range(4))
def test_bounds_hold_on_the_sphere_and_local_is_never_worse(seed: int) -> None:
    program = _net(seed)
    images, labels = _batch(program)
    bound, eps = global_bound(program), 0.05
    coarse, fine = (
        decided(s(Estimator(program, bound)), program, batch_of(images, labels, eps)) for s in (Global, Local)
    )
    assert coarse.margin is not None
    assert fine.margin is not None
    assert (fine.margin >= coarse.margin * (1 - 1e-9) - 1e-9).all()
    assert not (coarse.decided & ~fine.decided).any()
    directions = torch.randn(300, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    points = images[:, None] + eps * torch.nn.functional.normalize(directions)
    logits = program.logits(points.flatten(0, 1)).unflatten(0, (40, 300))
    own = logits.gather(2, labels[:, None, None].expand(-1, 300, 1))
    rivals = logits.masked_fill(torch.nn.functional.one_hot(labels, 3).bool()[:, None], -torch.inf)
    worst = (own - rivals).amin((1, 2))
    assert (fine.margin <= worst + 1e-9).all()


def test_no_room_certifies_all_that_leads() -> None:
    program = _net()
    images, labels = _batch(program)
    bound = global_bound(program)
    leading = FIRST.holds(program.logits(images), labels, 3)
    for stage in (Global, Local):
        found = decided(stage(Estimator(program, bound)), program, batch_of(images, labels, 0.0))
        assert torch.equal(found.decided, leading)


@pytest.mark.parametrize("scale", [1e-11, 1e-9, 1e11])
def test_verdicts_do_not_depend_on_the_scale_of_the_weights(scale: float) -> None:
    """Three layers of 1e-11 give logits of 1e-33, whose squares are zero in float32; some boxes are looser then."""
    plain, scaled = _net(dtype=torch.float32), _net(scale=scale, dtype=torch.float32)
    images, labels = _batch(plain)
    for eps in (0.02, 0.1, 0.3):
        for kind in (Global, Local):
            batch = batch_of(images, labels, eps)
            known, found = (decided(kind(Estimator(p, global_bound(p))), p, batch) for p in (plain, scaled))
            assert known.margin is not None
            clear = known.margin.abs() > 1e-3
            assert not (found.decided & ~known.decided)[clear].any(), (kind, eps)
            if scale > 1e-10:
                assert torch.equal(known.decided[clear], found.decided[clear]), (kind, eps)


@pytest.mark.parametrize("scale", [1e13, 1e20, 1e30, torch.inf, torch.nan])
def test_overflow_certifies_nothing(scale: float) -> None:
    program = _net(scale=scale, dtype=torch.float32)
    images, _ = _batch(_net(dtype=torch.float32))
    batch, bound = batch_of(images, torch.zeros(40, dtype=torch.int64), 0.1), global_bound(program)
    for stage in (Global(Estimator(program, bound)), Local(Estimator(program, bound))):
        assert not decided(stage, program, batch).decided.any()
