"""The forward propagation: box, ball and mask of every value, estimated or proved (docs/method.md, sections 3 to 5)."""

from llcert.bounds.forward.estimated import Balls, EstimatedArithmetic
from llcert.bounds.forward.propagate import propagate
from llcert.bounds.forward.row_weights import RowWeighting
from llcert.bounds.forward.slack import TIGHT, CheckerSlack, Slack
from llcert.bounds.forward.starts import Start
from llcert.bounds.forward.trace import Trace
from llcert.bounds.forward.verified import VerifiedArithmetic
from llcert.domain.region import MaskedRegion

__all__ = [
    "TIGHT",
    "Balls",
    "CheckerSlack",
    "EstimatedArithmetic",
    "MaskedRegion",
    "RowWeighting",
    "Slack",
    "Start",
    "Trace",
    "VerifiedArithmetic",
    "propagate",
]
