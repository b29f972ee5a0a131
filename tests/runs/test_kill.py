"""Folders that a kill leaves behind, at whatever moment: the next run accepts them, to go on or to replace them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from certificates import evidence
from moments import State, moments, put, state_of

import llcert.certificate_writer.folder
import llcert.machine.files
import llcert.runs.pending_batches
import llcert.runs.run_directory
import llcert_train.folder
from llcert.certificate_writer import CertificateGraph, Folder, ImageEvidence
from llcert.certificate_writer import open_folder as open_certificate
from llcert.certification import Semantics, Settings
from llcert.checker import InvalidCertificate, check
from llcert.errors import InvalidInput
from llcert.ir import Input, Network, apply
from llcert.ops import Linear, relu
from llcert.runs.pending_batches import PendingBatches
from llcert.runs.records import BatchOutcome
from llcert.runs.run_directory import PENDING, open_directory
from llcert_train.folder import open_folder as open_training
from llcert_train.metrics import Epoch
from llcert_train.settings import Recipe

from .test_run_directory import IDENTITY, OPTIONS, batch

Kept = tuple[CertificateGraph, dict[int, ImageEvidence]]

MODULES = [llcert.runs.run_directory, llcert.runs.pending_batches, llcert.machine.files]
OTHER = {**IDENTITY, "seed": 1}


def said(action: Callable[[], object]) -> str:
    """What is refused, in one line; nothing where it is done."""
    try:
        action()
    except (InvalidInput, InvalidCertificate) as error:
        return str(error)
    return ""


def finished(path: Path, identity: dict[str, Any], *, resume: bool = False, overwrite: bool = False) -> int:
    """Runs to its end, two batches ahead of their turn; how many batches were found."""
    directory = open_directory(path, resume=resume, overwrite=overwrite)
    done = directory.begin(OPTIONS, identity)
    ahead = PendingBatches(path / PENDING)
    for number in range(len(done), 3):
        outcome = ahead.get(number) or BatchOutcome(batch(2 * number))
        if number < 2:
            ahead.put(number + 1, BatchOutcome(batch(2 * number + 2)))
        directory.append(outcome.result)
        ahead.drop(number)
    ahead.clear()
    directory.close()
    return len(done)


def states_of_runs(tmp_path: Path) -> list[tuple[State | None, bool]]:
    """And whether a run of OTHER may be in them: of a new run, of one that is overwritten, and of one that goes on."""
    out = tmp_path / "out"
    with moments(out, MODULES) as new:
        finished(out, IDENTITY)
    part = next(s for s in reversed(new) if s and "batches.ahead/1.json" in s)
    old = put(part, tmp_path / "old")
    with moments(old, MODULES) as replaced:
        finished(old, OTHER, overwrite=True)
    again = put(part, tmp_path / "again")
    with moments(again, MODULES) as continued:
        assert 0 < finished(again, IDENTITY, resume=True) < 3
    return [*((s, False) for s in (*new, *continued)), *((s, True) for s in replaced)]


def test_a_killed_run_goes_on_or_is_replaced(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    finished(whole, IDENTITY)
    finished(tmp_path / "other", OTHER)
    states, resumed = states_of_runs(tmp_path), 0
    assert len(states) > 60
    for number, (state, replacing) in enumerate(states):
        path = put(state, tmp_path / f"resume{number}")
        resumed += bool(state and "run.json" in state and state.get("batches.jsonl"))
        complaint = said(partial(finished, path, IDENTITY, resume=True))
        if replacing and complaint:
            assert "seed is 0 now, but was 1" in complaint
            finished(path, OTHER, resume=True)
        assert state_of(path) == state_of(tmp_path / "other" if replacing and complaint else whole), complaint
        path = put(state, tmp_path / f"overwrite{number}")
        assert finished(path, IDENTITY, overwrite=True) == 0
        assert state_of(path) == state_of(whole)
    assert resumed > 10


def test_batches_of_a_run_that_was_replaced_are_not_taken_for_the_new_one_s(tmp_path: Path) -> None:
    """Whatever of an earlier run is left without the run.json that says what it was asked."""
    out = tmp_path / "out"
    out.mkdir()
    PendingBatches(out / PENDING).put(1, BatchOutcome(batch(90)))
    finished(out, IDENTITY, resume=True)
    finished(tmp_path / "whole", IDENTITY)
    assert state_of(out) == state_of(tmp_path / "whole")


@pytest.fixture(scope="module")
def proved() -> Kept:
    """Evidence of a few images of a small network."""
    generator = torch.Generator().manual_seed(0)
    hidden = apply(relu(), apply(Linear(torch.randn(4, 3, generator=generator)), apply(Input((3,)))))
    network = Network(apply(Linear(torch.randn(2, 4, generator=generator)), hidden))
    images = torch.rand(4, 3, generator=generator)
    return evidence(network, Settings(1e-3, stages=("global",)), images, network(images).argmax(1))


def certified(path: Path, proved: Kept, name: str, *, resume: bool = False, overwrite: bool = False) -> Folder:
    graph, found = proved
    folder = open_certificate(path, resume=resume, overwrite=overwrite)
    about = {"model": {"name": name}, "source": {}}
    folder.begin(graph, eps="0.001", semantics=Semantics.DEPLOYED.value, about=about)
    for index, one in sorted(found.items()):
        folder.add(index, one)
        folder.commit()
    return folder


def sound(path: Path) -> None:
    """Checks that all of a certificate is valid whose files are there."""
    for result in check(path):
        assert result.accepted or "cannot be read" in result.reason, result


def test_a_killed_certificate_goes_on_or_is_replaced(tmp_path: Path, proved: Kept) -> None:
    module = llcert.certificate_writer.folder
    with moments(tmp_path / "out", [module, llcert.machine.files]) as new:
        certified(tmp_path / "out", proved, "a")
    whole = state_of(tmp_path / "out")
    with moments(tmp_path / "out", [module, llcert.machine.files]) as replaced:
        certified(tmp_path / "out", proved, "b", overwrite=True)
    certified(tmp_path / "other", proved, "b")
    assert len(new) > 20
    for number, state in enumerate([*new, *replaced]):
        path = put(state, tmp_path / f"resume{number}")
        problem = said(partial(sound, path))
        assert not problem or problem.startswith("certificate.json: ")
        complaint = said(partial(certified, path, proved, "a", resume=True))
        if complaint:
            assert number >= len(new), complaint
            assert "holds another model" in complaint
            certified(path, proved, "b", resume=True)
        assert state_of(path) == (state_of(tmp_path / "other") if complaint else whole)
        path = put(state, tmp_path / f"overwrite{number}")
        certified(path, proved, "a", overwrite=True)
        assert state_of(path) == whole


@pytest.mark.parametrize("foreign", ["notes.txt", "images/a.npz", "images/1/a.npz"])
def test_a_folder_with_other_files_is_no_certificate_that_was_cut_off(tmp_path: Path, foreign: str) -> None:
    path = put({"graph.json": b"{}", "model.npz": b"", "images": None, foreign: b""}, tmp_path / "out")
    for resume in (True, False):
        with pytest.raises(InvalidInput, match="holds no certificate of llcert, but other files"):
            open_certificate(path, resume=resume, overwrite=not resume)
    assert (path / foreign).exists()


def test_links_to_other_folders_are_not_followed_to_delete(tmp_path: Path) -> None:
    put({"1.npz": b"mine"}, tmp_path / "elsewhere")
    path = put({"certificate.json": b"{}"}, tmp_path / "out")
    (path / "images").symlink_to(tmp_path / "elsewhere")
    open_certificate(path, resume=False, overwrite=True)
    assert (tmp_path / "elsewhere" / "1.npz").exists()


TASK: dict[str, Any] = {"layout": None}
RECIPE = Recipe(eps="0.5").to_json()


def trained(
    path: Path, identity: dict[str, Any], *, steps: int = 3, resume: bool = False, overwrite: bool = False
) -> None:
    folder = open_training(path, resume=resume, overwrite=overwrite)
    folder.begin(TASK, {**RECIPE, "epochs": steps}, identity)
    state = folder.checkpoint() if folder.stored is not None else None
    recipe = {**RECIPE, "epochs": steps}
    folder.adopt(recipe)
    for step in range(1 + int(state["step"] if state else 0), steps + 1):
        folder.append(Epoch(step, step=step))
        if step < steps:
            folder.save({"step": step})
    folder.finish({"step": steps})
    folder.write_card(f"card of {steps}")
    folder.close()


def without(state: State | None) -> State:
    """A checkpoint's archive holds random names, so that only its being there is compared; parts are nobody's."""
    left = {name: content for name, content in (state or {}).items() if not name.endswith(".part")}
    return {name: b"" if name.endswith(".pt") else content for name, content in left.items()}


def test_a_killed_training_goes_on_or_is_replaced(tmp_path: Path) -> None:
    modules = [llcert_train.folder, llcert.machine.files]
    with moments(tmp_path / "out", modules) as new:
        trained(tmp_path / "out", {"data": "a"})
    whole = without(state_of(tmp_path / "out"))
    with moments(tmp_path / "out", modules) as replaced:
        trained(tmp_path / "out", {"data": "b"}, overwrite=True)
    assert len(new) > 20
    for number, state in enumerate([*new, *replaced]):
        path = put(state, tmp_path / f"resume{number}")
        complaint = said(partial(trained, path, {"data": "a"}, resume=True))
        if complaint:
            assert number >= len(new), complaint
            assert "data is a now, but was b" in complaint
        else:
            assert without(state_of(path)) == whole
        path = put(state, tmp_path / f"overwrite{number}")
        trained(path, {"data": "a"}, overwrite=True)
        assert without(state_of(path)) == whole


def test_a_killed_extension_goes_on_or_is_replaced(tmp_path: Path) -> None:
    """At every moment there is a state to go on from: no step of the finished run is trained again."""
    modules = [llcert_train.folder, llcert.machine.files]
    trained(tmp_path / "out", {"data": "a"})
    short = without(state_of(tmp_path / "out"))
    with moments(tmp_path / "out", modules) as extended:
        trained(tmp_path / "out", {"data": "a"}, steps=6, resume=True)
    whole = without(state_of(tmp_path / "out"))
    assert len(extended) > 10
    assert whole.keys() == short.keys() == {"run.json", "metrics.jsonl", "finished.pt", "model.md"}
    for number, state in enumerate(extended):
        path = put(state, tmp_path / f"resume{number}")
        found = open_training(path, resume=True, overwrite=False).checkpoint()
        assert found is not None
        assert 3 <= found["step"] <= 6
        trained(path, {"data": "a"}, steps=6, resume=True)
        assert without(state_of(path)) == whole
        path = put(state, tmp_path / f"overwrite{number}")
        trained(path, {"data": "a"}, overwrite=True)
        assert without(state_of(path)) == short
