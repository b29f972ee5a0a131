"""The table of a report in the columns of randomised smoothing (Cohen et al. 2019), one line an image."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import timedelta

from llcert.certification import FIRST, Assurance, Verdict
from llcert.reporting.report import Report


def tsv_lines(report: Report) -> Iterable[str]:
    """The lines of a randomised-smoothing file. radius: the searched one, else eps where certified, else 0.

    Further columns name a specification other than the label staying first, the pixel range that it is restricted to,
    and an assurance weaker than `deterministic`.
    """
    subject, more = report.subject, {}
    if subject.settings.specification != FIRST:
        more["claim"] = " ".join(f"{k} {v}" for k, v in subject.settings.specification.to_json().items())
    if subject.settings.within is not None:
        more["within"] = ",".join(subject.settings.within.texts)
    if subject.settings.assurance is not Assurance.DETERMINISTIC:
        more["assurance"] = subject.settings.assurance.value
    name, value = ("".join(f"\t{part}" for part in parts) for parts in (more, more.values()))
    yield f"idx\tlabel\tpredict\tradius\tcorrect\ttime{name}\n"
    for s in report.samples:
        asked = (s.eps if s.verdict is Verdict.CERTIFIED else 0.0) or 0.0
        radius = asked if s.radius is None else s.radius
        correct = int(s.verdict is not Verdict.MISCLASSIFIED)
        # microseconds always, so that the column has one form
        seconds = timedelta(microseconds=max(1, math.ceil(1e6 * s.seconds)))
        yield f"{s.index}\t{s.label}\t{s.prediction}\t{radius}\t{correct}\t{seconds}{value}\n"
