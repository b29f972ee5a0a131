"""From the results of batches to a report that people and programs read."""

from llcert.report.report import Layer, LayerReport, Outcome, Report, StageReport, Subject
from llcert.report.tally import Tally

__all__ = ["Layer", "LayerReport", "Outcome", "Report", "StageReport", "Subject", "Tally"]
