"""Boxes as rule 2 has them: no value of the ball lies outside, and no box is wider than its rows and balls allow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from proofs import points_of, values_of
from random_graphs import random_image, random_network

from llcert.bounds import VerifiedArithmetic, propagate
from llcert.bounds.forward.outward import enclosing_ball
from llcert.bounds.global_lipschitz.proof import proved_bound
from llcert.certificate_writer import CertificateGraph, checkable
from llcert.errors import UnsupportedModel
from llcert.numerics.tensors import flat
from llcert.program import lower
from llcert.spectral import VerifiedCholesky

EPS = 0.05


@pytest.mark.parametrize("seed", range(40))
@torch.no_grad()
def test_boxes_hold_all_values_and_are_cut_by_the_balls_of_their_sources(seed: int) -> None:
    network = random_network(seed)
    try:
        graph = CertificateGraph.of(lower(network, dtype=torch.float64), deployed=False)
    except UnsupportedModel:
        pytest.skip("an operator that has no kind of node")
    program, image = graph.program, random_image(network, seed).double()
    bound = proved_bound(program, VerifiedCholesky())
    arithmetic = VerifiedArithmetic(bound, VerifiedCholesky(), slack=checkable(graph).slack)
    trace = propagate(program, enclosing_ball(image, EPS), arithmetic)
    before, _ = values_of(program, points_of(image, EPS, 400, seed))
    for block in program.blocks:
        z = trace.pre_activation[block.node]
        assert bool(((z.lower <= before[block.node]) & (before[block.node] <= z.upper)).all()), block.label
        reach = np.zeros(z.centre[0].numel())
        for source, matrix in graph.maps[block.node].items():
            known = trace.post_activation[source]
            varying = flat(known.varying)[0].numpy()
            reach += np.linalg.norm(matrix.toarray() * varying, axis=1) * float(known.region.radius)
        size = trace.roundoff[block.node].size if trace.roundoff is not None else z.centre.abs()
        allowed = reach * (1 + 1e-9) + 2e-9 * flat(size)[0].numpy() + 1e-200
        for end in (z.centre - z.lower, z.upper - z.centre):
            assert (flat(end)[0].numpy() <= allowed).all(), block.label
