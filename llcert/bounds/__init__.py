"""Bounds on what a network does in a ball: regions, Lipschitz constants, margins."""

from llcert.bounds.box import Hidden
from llcert.bounds.forward import Balls, RowWeighting, Start, Trace, propagate
from llcert.bounds.lipschitz import GlobalBound, global_bound
from llcert.bounds.margin import LastLayer, gloro_margins, lmt_margins, worst_margins

__all__ = [
    "Balls",
    "GlobalBound",
    "Hidden",
    "LastLayer",
    "RowWeighting",
    "Start",
    "Trace",
    "global_bound",
    "gloro_margins",
    "lmt_margins",
    "propagate",
    "worst_margins",
]
