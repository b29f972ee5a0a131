"""Sentences of a report that follow from its numbers: what limits certified accuracy, and signs of a wrong set-up."""

from __future__ import annotations

from llcert.certification import FIRST, Verdict
from llcert.reporting.summary import LayerReport, Summary

_FEW = 10
_HOPELESS = 100.0


def percent(share: float | None) -> str:
    """A share as `58.4 %`, None as `not run`. Only a share of 1 is `100.0 %`: others are rounded to 99.9 at most."""
    if share is None:
        return "not run"
    return f"{100 * share if share >= 1 else min(100 * share, 99.9):.1f} %"


def warnings(report: Summary) -> tuple[str, ...]:
    """Signs that the run is not what the user meant, one sentence each."""
    return (*report.subject.warnings, *_near_chance(report), *_contradicted(report))


def _near_chance(report: Summary) -> tuple[str, ...]:
    """A warning where clean accuracy is near chance, the usual sign of a wrong normalisation."""
    chance = 1 / report.subject.classes
    accuracy = _accuracy(report)
    if len(report.samples) < _FEW or accuracy > 1.5 * chance:
        return ()
    return (
        f"clean accuracy {percent(accuracy)} is near chance ({percent(chance)}): normalisation may be "
        "missing (give --mean and --std), doubled (leave them out), or the --layout or data may be the wrong one",
    )


def _contradicted(report: Summary) -> tuple[str, ...]:
    """A warning where images are disputed: the file or module itself, in its own runtime, answers otherwise."""
    if not report.disputed:
        return ()
    return (
        f"{report.disputed} images are undecided because the model itself, run by its own runtime, does not answer as "
        "the imported network does there: another class, or by a margin that differs by more than rounding",
    )


def _accuracy(report: Summary) -> float:
    """Share of images of which the network predicts the label, whatever the specification is."""
    if report.subject.settings.specification == FIRST or not report.samples:
        return report.clean_accuracy
    return sum(s.prediction == s.label for s in report.samples) / len(report.samples)


def held_down_by(report: Summary) -> str:
    """What limits certified accuracy: a sentence on whichever is largest of undecided, attacked and misclassified."""
    if not report.samples:
        return "No image was decided."
    losses = {v: report.count(v) for v in (Verdict.UNDECIDED, Verdict.ATTACKED, Verdict.MISCLASSIFIED)}
    largest = max(losses, key=lambda verdict: losses[verdict])
    share = percent(losses[largest] / len(report.samples))
    if losses[largest] == 0:
        return "Nothing: every image is certified."
    if largest is Verdict.MISCLASSIFIED:
        word = report.subject.settings.specification.misclassified_word
        return f"The network's own errors: {share} of the images are {word} before any perturbation."
    outside = report.attacked(in_range=False)
    if largest is Verdict.ATTACKED and report.subject.clippable and 2 * outside > losses[largest]:
        return (
            f"The claim: {percent(outside / len(report.samples))} of the images have an adversarial example inside the "
            "ball, but none was found in the pixel range; with --clip-input only changes that stay in it count."
        )
    if largest is Verdict.ATTACKED:
        return (
            f"The network itself: {share} of the images have an adversarial example inside the ball, which no bound "
            "can certify; only another eps or robust training helps."
        )
    if report.certified_accuracy is None:
        return f"Nothing was asked to certify: the attack left {share} of the images unbroken."
    return f"The bounds: {share} of the images are {_open(report)}; {_looseness(report)}."


def _open(report: Summary) -> str:
    if "attack" in report.subject.settings.running:
        return "neither broken by the attack nor certified"
    return "not certified (the attack was not run, some may be truly breakable)"


def _looseness(report: Summary) -> str:
    """Why bounds leave images undecided: the layer of the largest local norm, or a network not trained for them."""
    measured = [layer for layer in report.layers if layer.local_norm_mean is not None]
    if "local" not in report.subject.settings.running:
        return "the local stage, which is sharper than the global bound, was not run"
    if not measured:
        return "no local bound could be computed"
    largest = max(measured, key=_norm)
    lipschitz = report.local_lipschitz_mean
    loosest = f"the local norm is largest in {largest.layer.name} ({_norm(largest):.3g}{_varying(largest)})"
    if lipschitz is None or lipschitz * report.subject.middle_eps < _HOPELESS:
        return loosest
    return (
        f"the local Lipschitz bound is {lipschitz:.3g} on average, hopeless at this eps, as on any network that was "
        f"not trained to keep it small; {loosest}"
    )


def _norm(report: LayerReport) -> float:
    return report.local_norm_mean or 0.0


def _varying(report: LayerReport) -> str:
    return "" if report.varying is None else f", {100 * report.varying:.0f} % of its neurons varying"
