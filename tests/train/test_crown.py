"""The loss that looks at its strongest rival by a backward pass: sound, never behind the boxes, and its gradient."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from objectives import RADIUS, difference, directions, drawn, found_by_search, gradients
from toy_runs import asked
from toys import TOYS

import llcert_train.crown
from llcert.bounds.backward.choices import Choice, Key
from llcert.domain.relaxation import Relaxation
from llcert.domain.row_sharing import RowSharing
from llcert.errors import InvalidInput
from llcert_train.metrics import Epoch
from llcert_train.objective import method_of
from llcert_train.settings import Ball, Loss, Recipe

HOW = {"loss": Loss.CROWN, "iterations": 300}


@pytest.mark.parametrize("ball", ["global", "local"])
@pytest.mark.parametrize("name", TOYS)
def test_sound_and_never_behind_the_boxes(name: str, ball: str) -> None:
    s = drawn(name)
    logits, worst = s.seen(**HOW, ball=ball)
    truth = logits.gather(1, s.labels[:, None])
    assert (found_by_search(s, RADIUS) <= worst - truth + 1e-6).all()
    boxes = s.seen(loss=Loss.BCP, iterations=300, ball=ball)[1]
    assert (worst <= boxes + 1e-9).all()


@pytest.mark.parametrize("name", ["dense ReLU", "conv", "conv MaxMin"])
def test_it_says_more_than_the_boxes(name: str) -> None:
    s = drawn(name)
    worst, boxes = (s.seen(iterations=300, loss=loss)[1] for loss in (Loss.CROWN, Loss.BCP))
    lifted = (worst < boxes - 1e-3).sum(1)
    assert lifted.any()
    assert (lifted <= 1).all(), "one rival of each image"


class Frozen:
    """The multipliers of the first pass, again and again."""

    def __init__(self) -> None:
        self.lam: dict[Key, torch.Tensor] = {}
        self.original = llcert_train.crown._tightest

    def __call__(self, key: Key, step: Relaxation, rows: torch.Tensor, sharing: RowSharing) -> Choice:
        own = self.original(key, step, rows, sharing)
        return replace(own, lam=self.lam.setdefault(key, own.lam))


@pytest.mark.parametrize("ball", ["global", "local"])
@pytest.mark.parametrize(
    "name", ["dense ReLU", "dense ReLU-theta", "conv clipped MaxMin", "late residual", "concatenated"]
)
def test_gradient_at_fixed_multipliers(name: str, ball: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llcert_train.crown, "_tightest", Frozen())
    s = drawn(name, 3)
    slopes = gradients(s, s.measures(**HOW, ball=ball).loss)
    assert all(bool(g.isfinite().all()) for g in slopes)
    for direction in directions(s, 2):
        analytic = sum(float((g * d).sum()) for g, d in zip(slopes, direction, strict=True))
        assert analytic == pytest.approx(difference(s, direction, lambda: s.loss(**HOW, ball=ball)), rel=2e-4, abs=1e-6)


@pytest.mark.parametrize("ball", [Ball.PRODUCT, Ball.LIPLT])
def test_bounds_without_boxes_are_refused(ball: Ball) -> None:
    with pytest.raises(InvalidInput, match="choose global or local"):
        method_of(Recipe(loss=Loss.CROWN, ball=ball))


def test_it_trains(tmp_path: Path) -> None:
    recipe = {"epochs": 20, "ramp": 0.5, "warm_up": 0.0, "rate": 0.02, "eps": "0.5", "evaluate": 20}
    run = asked(tmp_path, loss="crown", **recipe).begun(tmp_path / "out").go()
    epochs = [e.train.robust_loss for e in run.told if isinstance(e, Epoch) and e.train is not None]
    assert min(epochs[10:]) < 0.7 < math.log(4), "at the full radius, of four classes"
