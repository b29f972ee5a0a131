"""The identity of a run: what decides its results, and what a run that is continued must agree with."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import Any

import numpy as np

from llcert.certification import Eps, Radii, Settings, claim_json
from llcert.ir import Network, topological
from llcert.options import Options
from llcert.options.certification import DECLARED
from llcert.options.declaration import declaration_of, json_value
from llcert.reporting import Subject

OF_OPTIONS = tuple(dict.fromkeys(d.identity for d in map(declaration_of, DECLARED.values()) if d.identity is not None))
"""The keys that options decide, in the order in which options are declared."""
OF_FACTS = ("versions", "model_sha256", "weights_sha256")
"""The keys that files and packages decide; `data_sha256` is added last, since it reads all images."""


def identity_of(options: Options, settings: Settings, subject: Subject) -> dict[str, Any]:
    """The identity of a run but for its data, as JSON values.

    options: completed by the model's metadata. A key has the value of the field of `Settings` of that name, unless it
    is listed here.
    """
    resolved = {
        "eps": None if isinstance(settings.eps, Radii) else settings.eps,
        "radii_sha256": _radii_sha256(settings.eps),
        "radius": settings.radius_tolerance,
        "claim": claim_json(settings.specification, settings.within),
        "data": subject.data,
        "split": subject.split,
        "samples": subject.selection,
        "mean": options.mean or (),
        "std": options.std or (),
        "layout": options.layout,
        "range": settings.pixel_range.texts,
        "attack_steps": settings.pgd.steps,
        "attack_restarts": settings.pgd.restarts,
        "attack_patience": settings.pgd.patience,
        "solver": type(settings.solver).__name__,
        "tolerance": settings.solver.tolerance,
        "iterations": settings.solver.cap,
        **{key: getattr(subject, key) for key in ("batch_size", "device", "dtype", *OF_FACTS)},
    }
    keys = (*OF_OPTIONS, *OF_FACTS)
    return {key: json_value(resolved[key] if key in resolved else getattr(settings, key)) for key in keys}


def _radii_sha256(eps: Eps) -> str | None:
    """SHA-256 of the radii as the user wrote them; None for one radius that all images share."""
    return hashlib.sha256("\n".join(eps.texts).encode()).hexdigest() if isinstance(eps, Radii) else None


def fingerprint(network: Network) -> str:
    """SHA-256 of the function that a network is: its operators, shapes, parameters and edges."""
    order = topological(network.output)
    position = {node: i for i, node in enumerate(order)}
    digest = hashlib.sha256()
    for node in order:
        plain = {f.name: getattr(node.op, f.name) for f in fields(node.op)}  # type: ignore[arg-type]
        tensors = node.op.tensors()
        rest = [(k, v) for k, v in plain.items() if k not in tensors]
        digest.update(repr((type(node.op).__name__, node.shape, [position[i] for i in node.inputs], rest)).encode())
        for name, tensor in tensors.items():
            digest.update(repr((name, tuple(tensor.shape), tensor.dtype)).encode())
            digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()
