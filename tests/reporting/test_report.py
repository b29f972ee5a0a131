"""From synthetic batch results to the summary and to what is printed."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.console import Console

from llcert.certification import (
    Assurance,
    AttackKind,
    BatchResult,
    LayerMeasure,
    Never,
    Radii,
    Sample,
    Settings,
    StageCount,
    Top,
    Verdict,
)
from llcert.options import STAGES
from llcert.reporting import Layer, Report, Subject, Tally
from llcert.reporting.console import _OTHER, _OUT_OF_RANGE, _SHADES
from llcert.reporting.diagnosis import held_down_by, percent
from llcert.reporting.numbers import histogram

SUBJECT = Subject(
    model="net.onnx",
    model_sha256="ab" * 32,
    weights_sha256="cd" * 32,
    settings=Settings(eps=36 / 255, assurance=Assurance.ESTIMATE, stages=("global", "attack", "local")),
    eps_text="36/255",
    data="digits",
    split="test",
    selection="0:8",
    asked=8,
    classes=10,
    layers=(Layer("conv1", "Conv + ReLU", 2.0), Layer("a very long name of a layer in a file", "Linear", 3.0)),
    global_lipschitz=6.0,
    normalisation="pixels enter the model as they are",
    device="cpu",
    dtype="float32",
    batch_size=4,
    versions={"llcert": "0"},
    notes=("a note",),
    warnings=("pixels run from -2 to 2",),
)
KEYS = [
    "model",
    "model_sha256",
    "eps",
    "norm",
    "data",
    "samples",
    "assurance",
    "clean_accuracy",
    "attacked_accuracy",
    "certified_accuracy",
    "stages",
    "layers",
    "global_lipschitz",
    "local_lipschitz_mean",
    "versions",
    "device",
    "seconds",
]
LAYER_KEYS = [
    "name",
    "operator",
    "global_norm",
    "local_norm_mean",
    "local_norm_median",
    "varying",
    "iterations_mean",
    "iterations_max",
]


def sample(index: int, verdict: Verdict, stage: str | None, lipschitz: float | None = None) -> Sample:
    growth, in_range = 12.5 if lipschitz else None, True if verdict is Verdict.ATTACKED else None
    return Sample(index, 1, 1, verdict, stage, None, lipschitz, growth, seconds=0.25, in_range=in_range)


def measures(images: int) -> tuple[LayerMeasure, ...]:
    def layer(norm: float) -> LayerMeasure:
        return LayerMeasure(
            torch.full((images,), norm), torch.arange(1, images + 1), torch.full((images,), 0.5, dtype=torch.float32)
        )

    return layer(1.5), layer(2.5)


FIRST = BatchResult(
    (
        sample(0, Verdict.MISCLASSIFIED, "clean"),
        sample(1, Verdict.CERTIFIED, "global"),
        sample(2, Verdict.ATTACKED, "attack"),
        sample(3, Verdict.UNDECIDED, None, lipschitz=4.0),
    ),
    (
        StageCount("clean", 4, 1, 0.1),
        StageCount("global", 3, 1, 0.1),
        StageCount("attack", 2, 1, 0.5),
        StageCount("local", 1, 0, 0.3),
    ),
    measures(1),
)
SECOND = BatchResult(
    (
        sample(4, Verdict.CERTIFIED, "global"),
        sample(5, Verdict.CERTIFIED, "local", lipschitz=3.0),
        sample(6, Verdict.UNDECIDED, None, lipschitz=5.0),
        sample(7, Verdict.UNDECIDED, None, lipschitz=5.0),
    ),
    (
        StageCount("clean", 4, 0, 0.1),
        StageCount("global", 4, 1, 0.1),
        StageCount("attack", 3, 0, 0.5),
        StageCount("local", 3, 1, 0.3),
    ),
    measures(3),
)


def asked(**settings: Any) -> Subject:
    """The subject with other settings."""
    return replace(SUBJECT, settings=replace(SUBJECT.settings, **settings))


def report(*results: BatchResult, subject: Subject = SUBJECT) -> Report:
    tally = Tally(subject)
    for result in results:
        tally.add(result)
    return tally.report()


def text(found: Report, *, width: int = 80, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding=encoding, write_through=True), width=width)
    console.print(found)
    return raw.getvalue().decode(encoding)


def test_summary_has_the_keys_programs_rely_on() -> None:
    summary = report(FIRST, SECOND).to_json()
    assert list(summary)[: len(KEYS)] == KEYS
    assert all(list(layer)[: len(LAYER_KEYS)] == LAYER_KEYS for layer in summary["layers"])
    assert [list(stage) for stage in summary["stages"]] == [["name", "seen", "decided", "seconds"]] * 4


def test_accuracies_are_shares_of_all_samples() -> None:
    summary = report(FIRST, SECOND).to_json()
    assert summary["samples"] == 8
    assert summary["clean_accuracy"] == 7 / 8
    assert summary["attacked_accuracy"] == 6 / 8
    assert summary["certified_accuracy"] == 3 / 8
    assert summary["certified_accuracy"] <= summary["attacked_accuracy"] <= summary["clean_accuracy"]
    assert summary["complete"] is True


def test_stages_and_layers_add_up() -> None:
    summary = report(FIRST, SECOND).to_json()
    assert summary["stages"][3] == {"name": "local", "seen": 4, "decided": 1, "seconds": 0.6}
    assert summary["layers"][0]["local_norm_mean"] == 1.5
    assert summary["layers"][1]["local_norm_median"] == 2.5
    assert summary["layers"][0]["iterations_mean"] == (1 + 1 + 2 + 3) / 4
    assert summary["layers"][0]["iterations_max"] == 3
    assert summary["layers"][0]["varying"] == 0.5
    assert summary["local_lipschitz_mean"] == 17 / 4
    assert summary["seconds"] == 2.0


def test_what_was_not_computed_is_null() -> None:
    alone = asked(stages=("attack",))
    result = BatchResult(
        (sample(0, Verdict.UNDECIDED, None),), (StageCount("clean", 1, 0, 0.0), StageCount("attack", 1, 0, 0.0)), ()
    )
    summary = report(result, subject=alone).to_json()
    assert summary["certified_accuracy"] is None
    assert summary["attacked_accuracy"] == 1.0
    assert summary["local_lipschitz_mean"] is None
    assert all(v is None for k, v in summary["layers"][0].items() if k.startswith(("local", "varying", "iterations_m")))
    assert report(result, subject=asked(stages=("local",))).to_json()["attacked_accuracy"] is None


def test_infinite_numbers_never_reach_json() -> None:
    endless = LayerMeasure(torch.tensor([torch.inf]), torch.tensor([3]), torch.tensor([torch.nan]))
    result = replace(FIRST, layers=(endless, endless))
    summary = report(result, subject=replace(SUBJECT, global_lipschitz=float("inf"), parity=float("nan"))).to_json()
    json.dumps(summary, allow_nan=False)
    assert summary["global_lipschitz"] is None
    assert summary["layers"][0]["local_norm_mean"] is None


def test_an_empty_report_is_a_report() -> None:
    found = report()
    json.dumps(found.to_json(), allow_nan=False)
    assert text(found)
    assert found.complete is False


def test_batches_in_two_runs_give_the_same_report() -> None:
    assert report(FIRST, SECOND) == report(FIRST, SECOND)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_text_fits_its_width_and_is_plain(width: int) -> None:
    printed = text(report(FIRST, SECOND), width=width)
    assert max(len(line) for line in printed.splitlines()) <= width
    assert "\x1b" not in printed
    assert "…" not in printed


def test_text_says_what_matters() -> None:
    printed = " ".join(text(report(FIRST, SECOND)).split())
    for words in (
        "net.onnx",
        "36/255 = 0.141176, an L2 radius in pixel units",
        "87.5 % 75.0 % 37.5 %",
        "certified (global)",
        "25.0 % certified by the global bound, 12.5 % broken by PGD, 50.0 % seen by the local stage",
        "Slowest stage: attack, 1.0 s of 2.0 s",
        "What holds certified accuracy down: The bounds: 37.5 %",
        "not a proof",
        "warning: pixels run from -2 to 2",
        "a note",
    ):
        assert words in printed


def test_names_from_files_are_printed_as_they_are() -> None:
    hostile = replace(SUBJECT, model="nets/[bold]a[/].onnx", layers=(Layer("\x1b[2J[red]", "Conv", 1.0),) * 2)
    printed = text(report(FIRST, SECOND, subject=hostile))
    assert "nets/[bold]a[/].onnx" in printed
    assert "?[2J[red]" in printed
    assert "\x1b" not in printed


def test_text_without_block_characters() -> None:
    printed = text(report(FIRST, SECOND), encoding="ascii")
    assert "##" in printed
    assert "?" in printed


@pytest.mark.parametrize(
    ("verdict", "stage", "words"),
    [
        (Verdict.MISCLASSIFIED, "clean", "own errors"),
        (Verdict.ATTACKED, "attack", "adversarial example"),
        (Verdict.UNDECIDED, None, "neither broken by the attack nor certified"),
        (Verdict.CERTIFIED, "global", "every image is certified"),
    ],
)
def test_diagnosis_names_the_largest_loss(verdict: Verdict, stage: str | None, words: str) -> None:
    result = BatchResult(tuple(sample(i, verdict, stage) for i in range(3)), FIRST.stages, ())
    assert words in held_down_by(report(result))


def broken(*in_range: bool) -> BatchResult:
    """Images that stages in turn broke, and whether by a point in the pixel range."""
    stages = ("attack", "targeted")
    samples = (replace(sample(i, Verdict.ATTACKED, stages[i % 2]), in_range=w) for i, w in enumerate(in_range))
    return BatchResult(tuple(samples), (*FIRST.stages, StageCount("targeted", 1, 1, 0.1)), ())


def test_points_outside_the_pixel_range_are_counted_apart() -> None:
    found = report(FIRST, broken(True, False, False, False))
    assert (found.attacked(in_range=True), found.attacked(in_range=False)) == (2, 3)
    summary = found.to_json()
    assert summary["attacked_accuracy"] == 2 / 8
    assert summary["attacked_accuracy_in_range"] == 5 / 8
    assert sum(o["count"] for o in summary["outcomes"] if o["in_range"] is False) == 3
    printed = " ".join(text(found).split())
    assert "attacked 2 25.0 % ▝▝ attacked, out of range 3 37.5 %" in printed
    assert "clean PGD (targeted) in pixel range certified 87.5 % 25.0 % 62.5 % 12.5 %" in printed
    assert "out of range" not in text(report(FIRST, SECOND))


def test_the_pixel_range_is_advised_where_it_would_help() -> None:
    assert "--clip-input" in held_down_by(report(broken(False, False, True)))
    assert "--clip-input" not in held_down_by(report(broken(False, True, True)))
    assert "--clip-input" not in held_down_by(report(broken(False), subject=replace(SUBJECT, clippable=False)))


def test_tables_say_which_attack_it_was() -> None:
    paper = asked(attack=AttackKind.PAPER)
    assert "PGD (paper)" in text(report(FIRST, subject=paper))
    assert report(FIRST, subject=paper).to_json()["attack"] == "paper"
    assert report(FIRST, subject=asked(stages=("local",))).to_json()["attack"] is None


def test_hopeless_bounds_are_called_so() -> None:
    result = replace(FIRST, samples=tuple(sample(i, Verdict.UNDECIDED, None, lipschitz=1e5) for i in range(4)))
    assert "hopeless" in held_down_by(report(result))


def test_accuracy_near_chance_is_a_warning() -> None:
    wrong = BatchResult(tuple(sample(i, Verdict.MISCLASSIFIED, "clean") for i in range(20)), FIRST.stages, ())
    assert any("near chance" in w for w in report(wrong).warnings)
    assert not any("near chance" in w for w in report(FIRST, SECOND).warnings)


def test_histogram_counts_everything() -> None:
    values = [1, 1, 2, 9, 100]
    found = histogram(values)
    assert sum(count for _, _, count in found) == len(values)
    assert found[0][0] == 1
    assert found[-1][1] == 100
    assert histogram([4]) == ((4, 4, 1),)


def test_every_outcome_has_a_glyph_of_its_own() -> None:
    shades = [*_SHADES.values(), _OUT_OF_RANGE, _OTHER]
    for glyphs in list(zip(*shades, strict=True))[:2]:
        assert len(set(glyphs)) == len(glyphs)
    certifying = {stage for verdict, stage in _SHADES if verdict is Verdict.CERTIFIED}
    assert certifying == set(STAGES) - {"attack"}


def test_the_cost_names_every_stage() -> None:
    """Those that it has no words of its own for, too."""
    last = (*FIRST.stages, StageCount("branch", 1, 0, 0.1), StageCount("new", 1, 1, 0.1))
    shown = " ".join(text(report(replace(FIRST, stages=last))).split())
    assert "0.0 % by the branch stage, 25.0 % by the new stage." in shown


def test_other_claims_have_their_own_words() -> None:
    never = replace(asked(specification=Never(3)), left_out=2)
    shown = text(report(FIRST, SECOND, subject=never))
    assert "the network never answers class 3; images of that class left out: 2" in " ".join(shown.split())
    assert "answered 3 already" in shown
    assert "misclassified" not in shown
    assert "never 3:" in shown
    top = asked(specification=Top(3))
    shown = text(report(FIRST, SECOND, subject=top))
    assert "among the 3 largest logits" in shown
    assert "not in the top 3" in shown
    wrong = BatchResult((sample(0, Verdict.MISCLASSIFIED, "clean"),), FIRST.stages, ())
    assert "are not in the top 3 before" in held_down_by(report(wrong, subject=top))


def test_claims_that_are_mostly_true_hide_no_wrong_normalisation() -> None:
    samples = [replace(sample(i, Verdict.CERTIFIED, "global"), prediction=0) for i in range(12)]
    found = report(BatchResult(tuple(samples), FIRST.stages, ()), subject=asked(specification=Never(3)))
    assert any("near chance" in warning for warning in found.warnings)


def test_radii_of_images_are_stated() -> None:
    subject = replace(asked(eps=Radii((0.1, 0.2, 0.4))), eps_text="radii.txt")
    samples = tuple(replace(sample(i, Verdict.CERTIFIED, "global"), eps=e) for i, e in enumerate((0.1, 0.2, 0.4)))
    found = report(BatchResult(samples, FIRST.stages, ()), subject=subject)
    assert found.to_json()["radii"] == [0.1, 0.2, 0.4]
    assert "radii.txt: 0.1 to 0.4, median 0.2, each image's own L2 radius" in " ".join(text(found).split())


def test_any_image_that_was_tried_may_be_the_wrong_one() -> None:
    """Which of them are certified depends on what was drawn, so the union bound is over all of them."""
    subject = asked(assurance=Assurance.PROBABILISTIC, delta=0.01)
    assert report(FIRST, SECOND, subject=subject).failure_probability == pytest.approx(0.07)


def test_what_is_written_of_a_lower_bound_is_none_higher() -> None:
    margin = 0.12345678951
    result = replace(FIRST, samples=(replace(FIRST.samples[1], margin=margin),))
    (found,) = report(result).samples
    assert found.margin is not None
    assert 0 < margin - found.margin < 1e-9


def test_a_hundred_percent_are_all() -> None:
    words = [percent(share) for share in (1.0, 0.99961, 0.584, None)]
    assert words == ["100.0 %", "99.9 %", "58.4 %", "not run"]
