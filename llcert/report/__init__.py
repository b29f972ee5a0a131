"""From the results of batches to a report that people and programs read."""

from llcert.report.report import Report
from llcert.report.subject import Layer, Subject
from llcert.report.summary import LayerReport, Outcome, StageReport
from llcert.report.tally import Tally

__all__ = ["Layer", "LayerReport", "Outcome", "Report", "StageReport", "Subject", "Tally"]
