"""From the results of batches to a report that people and programs read."""

from llcert.reporting.report import Report
from llcert.reporting.subject import Layer, Subject
from llcert.reporting.summary import LayerReport, Outcome, StageReport
from llcert.reporting.tally import Tally

__all__ = ["Layer", "LayerReport", "Outcome", "Report", "StageReport", "Subject", "Tally"]
