"""Bounds on what a network does in a ball: regions, Lipschitz constants, margins.

| what | where | docs/method.md |
|---|---|---|
| box, ball and mask of every value | `forward` | sections 3 to 5; rounding: 12 |
| global Lipschitz constants | `global_lipschitz`, and `liplt` for the composed maps of LipLT | sections 5 and 6 |
| margins at the last layer | `margin` | section 8 |
| backward passes, intermediate bounds, branch and bound | `backward` | sections 9 to 11 |
| rounding errors at single points | `evaluation` | section 12 |
"""

from llcert.bounds.forward import (
    TIGHT,
    Balls,
    CheckerSlack,
    EstimatedArithmetic,
    MaskedRegion,
    RowWeighting,
    Slack,
    Start,
    Trace,
    VerifiedArithmetic,
    propagate,
)
from llcert.bounds.global_lipschitz.constants import GlobalBound
from llcert.bounds.global_lipschitz.estimate import global_bound
from llcert.bounds.margin import LastLayer, gloro_margins, lmt_margins, pairwise_margins, worst_margins

__all__ = [
    "TIGHT",
    "Balls",
    "CheckerSlack",
    "EstimatedArithmetic",
    "GlobalBound",
    "LastLayer",
    "MaskedRegion",
    "RowWeighting",
    "Slack",
    "Start",
    "Trace",
    "VerifiedArithmetic",
    "global_bound",
    "gloro_margins",
    "lmt_margins",
    "pairwise_margins",
    "propagate",
    "worst_margins",
]
