"""One run by several processes: what the first one tells the others, and what these make of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from llcert.ahead import Ahead
from llcert.certify import BatchResult
from llcert.cli.jobs import job_of, reproducible
from llcert.dealing import help_out, in_order
from llcert.errors import InvalidInput
from llcert.job import Job
from llcert.machine.process_group import ProcessGroup
from llcert.question import Question


def shared_results(
    job: Job, question: Question, group: ProcessGroup, ahead: Ahead, *, done: int
) -> Iterator[BatchResult]:
    """The results of all batches but the first `done`, in order, whichever process computes them."""
    kept = ahead.numbers()
    dealt = [number for number in range(done, job.batches) if number not in kept]
    group.publish(
        {
            "question": replace(question, batch_size=job.batch_size).to_json(),
            "identity": job.identity,
            "ahead": str(ahead.path),
            "dealt": dealt,
        }
    )
    return in_order(partial(_result, job, dealt), group, ahead, numbers=range(done, job.batches), dealt=dealt)


def share(model: str, group: ProcessGroup, *, folder: Path, self_check: bool) -> int:
    """Takes a share of the batches of the run that the first process leads; the exit code.

    folder: for what shows a contradiction. Raises LlcertError for everything that cannot be done.
    """
    plan = group.await_published()
    question, dealt = Question.from_json(plan["question"]), plan["dealt"]
    job = job_of(Path(model), question, Console(quiet=True), self_check=self_check, shared=True)
    _compare(plan["identity"], job.identity, group.rank)
    with reproducible(job, folder):
        help_out(partial(_result, job, dealt), group, Ahead(Path(plan["ahead"])), dealt=dealt)
    return 0


def _result(job: Job, dealt: list[int], number: int) -> BatchResult:
    return job.result(number, self_check=number == dealt[0])


def _compare(first: Mapping[str, Any], mine: Mapping[str, Any], rank: int) -> None:
    """Raises InvalidInput where another process reads another model or other data; devices may differ."""
    # through JSON, so that both have its types
    known = json.loads(json.dumps(mine))
    for name in first.keys() - {"device"}:
        if first[name] != known.get(name):
            raise InvalidInput(
                f"{name} is {known.get(name)} for process {rank}, but {first[name]} for process 0: "
                "every machine needs the same model and data"
            )
