"""Arrays for rules 2 to 6 of docs/certificate.md: box, weights, norms and radii of the value of a block."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llcert.bounds import Trace
from llcert.certificate_writer.graph import Arrays, CertificateGraph
from llcert.program import Block


def region_arrays(graph: CertificateGraph, trace: Trace, block: Block, i: int) -> Arrays:
    """Box, weights, norms and radii of a block for image number i of a trace; without the centre, which first regions
    share with the others."""
    k, z = graph.numbers[block.node], trace.pre_activation[block.node]
    weights, radius = trace.weighted[block.node]
    arrays: Arrays = {
        f"{k}.lower": flat_array(z.lower[i]),
        f"{k}.upper": flat_array(z.upper[i]),
        f"{k}.weights": flat_array(weights[i].expand(block.pre.shape)),
        f"{k}.radius": _scalar(radius[i]),
        f"{k}.after": _scalar(trace.post_activation[block.node].region.radius[i]),
    }
    for term in block.terms:
        arrays[f"{k}.norm.{graph.numbers[term.source]}"] = _scalar(trace.norms[term].value[i])
    return arrays | _joint(graph, trace, block, i)


def _joint(graph: CertificateGraph, trace: Trace, block: Block, i: int) -> Arrays:
    """The joint norm of the maps from all sources and its shares, where it gives a smaller radius than the norms of
    each."""
    if block.node not in trace.joint:
        return {}
    known = trace.joint[block.node]
    joint, shares = known.value[i], known.weights[:, i]
    radii = torch.stack([trace.post_activation[t.source].region.radius[i] for t in block.terms])
    norms = torch.stack([trace.norms[t].value[i] for t in block.terms])
    if not float(joint * (radii / shares).norm()) < float((norms * radii).sum()):
        return {}
    k, order = graph.numbers[block.node], [graph.numbers[t.source] for t in block.terms]
    return {f"{k}.joint": _scalar(joint), f"{k}.shares": flat_array(shares)[np.argsort(order)]}


def flat_array(values: Tensor) -> NDArray[np.float64]:
    """The entries of a tensor in row-major order, in float64."""
    return np.ascontiguousarray(values.detach().double().cpu().reshape(-1).numpy())


def _scalar(value: Tensor) -> NDArray[np.float64]:
    """A tensor of one entry as an array without axes."""
    return np.array(float(value))
