"""Bounds on what a network does in a ball: regions, Lipschitz constants, margins."""

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
