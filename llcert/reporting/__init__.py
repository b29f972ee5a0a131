"""Reports: the results of batches added up, as text for people and as JSON and tables for programs."""

from llcert.reporting.report import Report
from llcert.reporting.subject import Layer, Subject
from llcert.reporting.summary import LayerReport, Outcome
from llcert.reporting.tally import Tally

__all__ = ["Layer", "LayerReport", "Outcome", "Report", "Subject", "Tally"]
