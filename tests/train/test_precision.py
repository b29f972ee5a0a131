"""The format of a training step's network: what is taken, what it does to logits, and that a run keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_runs import asked, same, timeless_state

from llcert.api import from_torch
from llcert.program import lower
from llcert_train.precision import settle
from llcert_train.settings import Precision
from llcert_train.trainer import Trainer
from llcert_train.zoo import build


def timed(monkeypatch: pytest.MonkeyPatch, *, narrow: float, wide: float) -> None:
    """Steps that take so many seconds in each format."""
    monkeypatch.setattr(Trainer, "cost", lambda self, progress: wide if self.objective.narrow is None else narrow)


@pytest.mark.parametrize(("narrow", "wide", "taken"), [(1.0, 2.0, torch.bfloat16), (1.0, 1.05, None), (2.0, 1.0, None)])
def test_the_faster_one_is_taken(
    narrow: float, wide: float, taken: torch.dtype | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, narrow=narrow, wide=wide)
    trainer = asked(tmp_path, loss="gloro", precision="auto").job().trainer
    line = settle(trainer)
    assert trainer.objective.narrow is taken
    assert line is not None
    assert ("bfloat16; " in line) is (taken is torch.bfloat16)


@pytest.mark.parametrize("loss", ["local-lip-b", "bcp", "emma"])
def test_steps_that_propagate_bounds_stay_as_they_are(loss: str, tmp_path: Path) -> None:
    trainer = asked(tmp_path, loss=loss, precision="bfloat16").job().trainer
    assert settle(trainer) is None
    assert trainer.objective.narrow is None


def test_the_last_phase_has_the_format_that_it_can_have(tmp_path: Path) -> None:
    """Measured in the first; a local bound keeps the program's, another global one goes on as it was."""
    for last, taken in (("local-lip-b", None), ("crm", torch.bfloat16)):
        how = {"loss": "gloro", "last_loss": last, "last_share": 0.5, "precision": "bfloat16"}
        trainer = asked(tmp_path, **how).job().trainer
        settle(trainer)
        while not trainer.done:
            assert trainer.objective.narrow is (torch.bfloat16 if trainer.step <= 5 else taken)
            trainer.train_step()
        assert trainer.objective.narrow is taken


def test_asked_for_outright_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "cost", lambda self, progress: pytest.fail("was measured"))
    for precision, taken in ((Precision.BFLOAT16, torch.bfloat16), (Precision.FLOAT32, None)):
        trainer = asked(tmp_path, loss="gloro", precision=precision).job().trainer
        assert settle(trainer) is None
        assert trainer.objective.narrow is taken


def test_a_run_that_goes_on_keeps_its_format(tmp_path: Path) -> None:
    question = asked(tmp_path, loss="gloro", last_loss="crm", last_share=0.4, precision="bfloat16")
    straight, first = question.begun(tmp_path / "straight"), question.begun(tmp_path / "stopped")
    for run in (straight, first):
        settle(run.job.trainer)
    straight.go()
    first.go(3)
    second = question.begun(tmp_path / "stopped", resume=True)
    assert second.job.trainer.objective.narrow is torch.bfloat16
    assert same(timeless_state(second.go().job), timeless_state(straight.job))


def test_narrow_logits_are_near_and_come_in_the_format_of_the_program() -> None:
    torch.manual_seed(0)
    program = lower(from_torch(build("tiny-conv", input_shape=(3, 8, 8), classes=5), torch.zeros(1, 3, 8, 8)))
    images = torch.rand(6, 3, 8, 8)
    exact, narrow = program.logits(images), program.logits(images, torch.bfloat16)
    assert narrow.dtype is torch.float32
    assert not torch.equal(narrow, exact)
    torch.testing.assert_close(narrow, exact, atol=0.03, rtol=0.03)
    assert not torch.equal(narrow, narrow.bfloat16().float()), "the last layer is not narrow"
