"""Networks as float32 evaluates them, sums in a random order."""

from __future__ import annotations

import numpy as np

from .networks import Toy, value


def all_in_float32(toy: Toy, x: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Values by a float32 evaluation that adds up in random orders, the offset somewhere in between."""
    values: list[np.ndarray] = []
    for n in toy.nodes:
        xs = [values[i] for i in n["inputs"]]
        if n["kind"] == "input":
            values.append(x)
        elif n["kind"] == "linear":
            terms = [*(n["A"].astype(np.float32)[None] * xs[0][:, None, :]).transpose(2, 0, 1)]
            terms.insert(0, np.broadcast_to(n["b"].astype(np.float32), terms[0].shape))
            total = np.zeros_like(terms[0])
            for i in rng.permutation(len(terms)):
                total = total + terms[i]
            values.append(total)
        else:
            single = {k: v.astype(np.float32) if getattr(v, "dtype", None) == np.float64 else v for k, v in n.items()}
            values.append(np.asarray(value(single, xs), np.float32))
    return values
