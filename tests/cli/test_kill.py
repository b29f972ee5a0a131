"""Runs that are killed at random moments and go on: the same bytes as a run that was left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import Run
from .test_certify import lines, timeless

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")

TRIES = 3


def kill_at_random(command: list[str], batches: Path, moment: random.Random) -> None:
    """Starts the command and kills it some time after it has finished a few batches."""
    wanted = moment.randrange(1, 12)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and (not batches.exists() or batches.read_bytes().count(b"\n") < wanted):
            time.sleep(0.001)
        time.sleep(moment.random() * 0.05)
        process.send_signal(signal.SIGKILL)


def test_killed_and_resumed_gives_the_same_bytes(run: Run, model: Path, tmp_path: Path) -> None:
    asked = ["certify", str(model), "--samples", "60", "--batch-size", "2", "--eps", "0.4"]
    whole = tmp_path / "whole"
    assert run(*asked, "--out", whole).code == 0
    for attempt in range(TRIES):
        out = tmp_path / f"killed{attempt}"
        command = [sys.executable, "-m", "llcert", *asked, "--out", str(out)]
        kill_at_random(command, out / "batches.jsonl", random.Random(attempt))
        assert len(lines(out / "batches.jsonl")) < 30, "killed too late to test anything"
        assert run("certify", model, "--out", out, "--resume").code == 0
        assert (out / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
        assert timeless(out / "summary.json") == timeless(whole / "summary.json")
