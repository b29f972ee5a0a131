"""The folder of a run: what it refuses, what it writes, and what it makes of files that others broke."""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import Asked, asked, same
from train_folders import IDENTITY, RECIPE, STATE, TASK, begun, complaint, listing, resumed

import llcert_train.folder
from llcert.cli import main
from llcert.errors import InvalidInput
from llcert_train.folder import FORMAT, open_folder
from llcert_train.metrics import Epoch


def test_a_new_folder_is_made_by_begin_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    folder = open_folder(path, resume=False, overwrite=False)
    assert not (tmp_path / "a").exists()
    folder.begin(TASK, RECIPE, IDENTITY)
    content = json.loads((path / "run.json").read_text())
    assert content == {"format": FORMAT, "task": TASK, "recipe": RECIPE, "identity": IDENTITY}
    assert folder.checkpoint() is None
    assert folder.epochs() == ()
    folder.close()
    assert sorted(listing(path)) == ["run.json"]


@pytest.mark.parametrize(("resume", "overwrite"), [(False, False), (True, False), (False, True)])
def test_an_empty_folder_is_as_good_as_none(resume: bool, overwrite: bool, tmp_path: Path) -> None:
    for inside in ([], [".lock"]):  # a run that was killed at once leaves its lock
        path = tmp_path / f"{len(inside)}"
        path.mkdir()
        for name in inside:
            (path / name).touch()
        folder = open_folder(path, resume=resume, overwrite=overwrite)
        folder.begin(TASK, RECIPE, IDENTITY)
        folder.close()
        assert sorted(listing(path)) == ["run.json"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("hello")
    for how in ({"resume": False}, {"resume": True}):
        with pytest.raises(InvalidInput, match="not a folder") as error:
            open_folder(tmp_path / "out", overwrite=False, **how)
        complaint(error)
    assert (tmp_path / "out").read_text() == "hello"


def test_a_folder_in_which_nothing_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    with pytest.raises(InvalidInput, match="cannot be written") as error:
        begun(tmp_path / "file" / "out")
    complaint(error)


def test_what_lies_there_is_left_alone_unless_told(out: Path) -> None:
    before = listing(out)
    with pytest.raises(
        InvalidInput, match="holds an earlier run; give --resume to continue it or --overwrite"
    ) as error:
        open_folder(out, resume=False, overwrite=False)
    complaint(error)
    with pytest.raises(InvalidInput, match="exclude each other") as error:
        open_folder(out, resume=True, overwrite=True)
    complaint(error)
    assert listing(out) == before


@pytest.mark.parametrize("name", ["notes.txt", "model.onnx", "metrics.jsonl", ".hidden"])
def test_the_folder_of_something_else_is_refused_whatever_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(InvalidInput, match="is not empty") as error:
        open_folder(tmp_path, resume=False, overwrite=False)
    complaint(error)
    for how in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
        with pytest.raises(InvalidInput, match=r"run\.json: not written by llcert's training") as error:
            open_folder(tmp_path, **how)
        complaint(error)
    assert listing(tmp_path) == {name: b"mine"}


def stored(**parts: Any) -> bytes:
    return json.dumps({"format": FORMAT, "task": TASK, "recipe": RECIPE, "identity": IDENTITY, **parts}).encode()


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "half": stored()[:40],
    "not JSON": b"hello",
    "not UTF-8": b'{"format": "\xff\xfe"}',
    "a list": b"[]",
    "nothing": b"null",
    "a number": b"17",
    "a text": json.dumps(FORMAT).encode(),
    "no keys": b"{}",
    "another format": stored(format="llcert training 99"),
    "a format that is no text": stored(format=[FORMAT]),
    "a certification's": stored(format="llcert run 1"),
    "deep": b"[" * 100_000,
    "deep inside": stored().replace(b'"task": {"layout": null}', b'"task": ' + b"[" * 100_000),
    "digits": b'{"format": ' + b"9" * 100_000 + b"}",
    **{
        f"{part} is {value!r}": stored(**{part: value})
        for part in ("task", "recipe", "identity")
        for value in (None, 5, "text", True, [1, 2], ["ab", 3])
    },
    **{
        f"without {part}": json.dumps({k: v for k, v in json.loads(stored()).items() if k != part}).encode()
        for part in ("format", "task", "recipe", "identity")
    },
    **{
        f"recipe with {name} {value!r}": stored(recipe={**RECIPE, name: value})
        for name, value in {
            "batch": "many",
            "epochs": 0,
            "rate": float("nan"),
            "loss": "none",
            "eps": "-1",
            "unknown": 1,
            "flip": [],
            "seed": 10**30,
            "ball": {},
        }.items()
    },
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_run_json_that_no_training_wrote(kind: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(HOSTILE[kind])
    (tmp_path / "checkpoint.pt").write_bytes(b"mine")
    before = listing(tmp_path)
    for how in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
        with pytest.raises(InvalidInput, match=r"run\.json: not ") as error:
            open_folder(tmp_path, **how)
        complaint(error)
    assert listing(tmp_path) == before


def test_a_run_json_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(InvalidInput, match=r"run\.json: not written") as error:
        open_folder(tmp_path, resume=True, overwrite=False)
    complaint(error)


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Asked, Path]:
    """A run of the command line's `train` that was stopped after its second step, and what was asked."""
    question = asked(tmp_path, new=True, arch="tiny-conv")
    question.begun(tmp_path / "out").go(2)
    return question, tmp_path / "out"


def said_by_the_command_line(*arguments: object) -> tuple[int, list[str]]:
    printed = io.StringIO()
    with redirect_stderr(printed):
        code = main([str(a) for a in arguments])
    return code, printed.getvalue().splitlines()


TASKS: dict[str, dict[str, Any]] = {
    "another field": {"spell": "abracadabra"},
    "a model": {"model": "/etc/passwd"},
    "numbers for a text": {"layout": 7},
    "a list for a text": {"data_root": ["/tmp"]},
    "a text for numbers": {"mean": "0.5"},
    "texts for numbers": {"std": ["0.5"]},
    "an object": {"mean": {"a": 1}},
    "not finite": {"mean": [float("nan")]},
    "a text for names": {"stages": "global"},
    "numbers for names": {"stages": [1]},
    "a stage there is not": {"stages": ["global", "hope"]},
    "no stages": {"stages": []},
    "an assurance there is not": {"assurance": "faith"},
    "a layout there is not": {"layout": "sideways"},
    "a device there is not": {"device": "warp core"},
    "no test images": {"test_data": "/nowhere/images.npz"},
}


@pytest.mark.parametrize("kind", TASKS)
def test_a_stored_task_that_nobody_asked(kind: str, trained: tuple[Asked, Path]) -> None:
    """Through the command line, which fills what it was not told with what was stored."""
    path = trained[1] / "run.json"
    content = json.loads(path.read_text())
    content["task"] = {"device": None, **TASKS[kind]}
    path.write_text(json.dumps(content))
    before = listing(trained[1])
    code, lines = said_by_the_command_line("train", "--out", trained[1], "--resume")
    assert code == 2
    (line,) = lines
    assert line.startswith("error: ")
    assert listing(trained[1]) == before


def test_a_run_goes_on_with_its_state(out: Path) -> None:
    folder = resumed(out)
    state = folder.checkpoint()
    assert state is not None
    assert same(state, STATE)
    assert [e.epoch for e in folder.epochs()] == [0, 1]
    folder.close()


@pytest.mark.parametrize(
    ("name", "recipe", "identity"),
    [
        ("eps", {}, {"eps": "0.25"}),
        ("model_sha256", {}, {"model_sha256": "b" * 64}),
        ("data", {}, {"data": "digits", "model_sha256": "b" * 64}),
        ("processes", {}, {"processes": 2}),
        ("loss", {"loss": "bcp", "rate": 0.5}, {"layout": "NHWC"}),
        ("ball", {"ball": "global"}, {}),
        ("batch", {"epochs": 61, "minutes": 1.0, "batch": 61}, {}),
        ("flip", {"flip": True}, {}),
        ("mean", {}, {"mean": [0.5]}),
    ],
)
def test_another_question_names_the_first_difference(
    name: str, recipe: dict[str, Any], identity: dict[str, Any], out: Path
) -> None:
    before = listing(out)
    for rank in (0, 1):
        folder = open_folder(out, resume=True, overwrite=False, rank=rank)
        with pytest.raises(InvalidInput, match=f"--resume: {name} is .* now, but was ") as error:
            folder.begin(TASK, {**RECIPE, **recipe}, {**IDENTITY, **identity})
        assert "--overwrite" in complaint(error)
    assert listing(out) == before


def test_another_question_by_the_parts_of_a_real_run(trained: tuple[Asked, Path], tmp_path: Path) -> None:
    before = listing(trained[1])
    (tmp_path / "other").mkdir()
    other = asked(tmp_path / "other")
    wrong = {"data": other.recipe.data, "eps": "0.31", "arch": "mlp", "kappa": 0.5, "seed": 1}
    for name, value in wrong.items():
        question = Asked(trained[0].task, trained[0].recipe.changed({name: value}))
        with pytest.raises(InvalidInput, match=f"--resume: {name} is ") as error:
            question.begun(trained[1], resume=True)
        complaint(error)
    with pytest.raises(InvalidInput, match="--resume: "):
        other.begun(trained[1], resume=True)
    assert listing(trained[1]) == before


def test_equal_questions_agree_through_json(out: Path) -> None:
    """Tuples and numbers that JSON writes otherwise are no difference."""
    path = out.parent / "other"
    folder = open_folder(path, resume=False, overwrite=False)
    recipe, identity = {"rate": 1e-3, "epochs": 60}, {"mean": (0.5, 0.25), "eps": "36/255", "layout": None}
    folder.begin(TASK, recipe, identity)
    folder.close()
    again = open_folder(path, resume=True, overwrite=False)
    again.begin(TASK, recipe, identity)
    again.close()


def test_metrics_are_cut_to_the_checkpoint(out: Path) -> None:
    folder = resumed(out)
    for number in (2, 3):
        folder.append(Epoch(number, step=2 * number))
    folder.close()
    with (out / "metrics.jsonl").open("ab") as file:
        file.write(b'{"epoch": 4, "step": 3')  # not finished
    folder = resumed(out)
    assert folder.checkpoint() is not None
    assert [e.epoch for e in folder.epochs()] == [0, 1]
    assert (out / "metrics.jsonl").read_bytes().endswith(b"}\n")
    folder.close()


def test_metrics_of_a_run_without_a_checkpoint_are_dropped(out: Path) -> None:
    (out / "checkpoint.pt").unlink()
    folder = resumed(out)
    assert folder.checkpoint() is None
    assert (out / "metrics.jsonl").read_bytes() == b""
    folder.close()


@pytest.mark.parametrize(
    "line", [b"hello\n", b"[]\n", b"{}\n", b'{"step": null}\n', b'{"step": "x"}\n', b"\xff\n", b"\n"]
)
@pytest.mark.parametrize("saved", [True, False])
def test_damaged_metrics(line: bytes, saved: bool, out: Path) -> None:
    whole = (out / "metrics.jsonl").read_bytes()
    (out / "metrics.jsonl").write_bytes(line + whole)
    if not saved:
        (out / "checkpoint.pt").unlink()
    folder = resumed(out)
    if saved:
        with pytest.raises(InvalidInput, match=r"metrics\.jsonl: .*--overwrite") as error:
            folder.checkpoint()
        complaint(error)
        assert (out / "metrics.jsonl").read_bytes() == line + whole
    else:
        assert folder.checkpoint() is None
    folder.close()


def test_a_run_that_has_ended_leaves_what_an_extension_needs(out: Path) -> None:
    """Its vectors of images go, and so does the checkpoint; an extension's first checkpoint takes its place again."""
    folder = resumed(out)
    folder.finish({**STATE, "step": 4, "warm": {"seen": torch.ones(2)}})
    assert sorted(listing(out)) == [".lock", "finished.pt", "metrics.jsonl", "run.json"]
    assert same(folder.checkpoint(), {**STATE, "step": 4, "warm": None})
    folder.save({**STATE, "step": 5})
    assert sorted(listing(out)) == [".lock", "checkpoint.pt", "metrics.jsonl", "run.json"]
    assert folder.checkpoint()["step"] == 5  # type: ignore[index]
    folder.close()


@pytest.mark.parametrize(("saved", "ended", "step"), [(3, 4, 4), (4, 4, 4), (5, 4, 5)])
def test_of_two_states_that_a_kill_left_the_later_counts(saved: int, ended: int, step: int, out: Path) -> None:
    folder = resumed(out)
    folder.finish({**STATE, "step": ended})
    torch.save({**STATE, "step": saved}, out / "checkpoint.pt")
    state = folder.checkpoint()
    assert state is not None
    assert (state["step"], "warm" in state) == (step, step == ended)
    folder.close()


def test_a_damaged_end_is_refused(out: Path) -> None:
    folder = resumed(out)
    folder.finish(STATE)
    folder.close()
    whole = (out / "finished.pt").read_bytes()
    for content in (b"", whole[:-1], whole[: len(whole) // 2], b"hello"):
        (out / "finished.pt").write_bytes(content)
        folder = open_folder(out, resume=True, overwrite=False)
        with pytest.raises(InvalidInput, match=r"finished\.pt: .*--overwrite") as error:
            folder.checkpoint()
        complaint(error)


def test_each_process_ends_its_own(out: Path) -> None:
    first, second = resumed(out), open_folder(out, resume=True, overwrite=False, rank=1)
    second.save({**STATE, "warm": None})
    assert (out / "checkpoint.1.pt").exists()
    second.finish({**STATE, "step": 4})
    assert sorted(listing(out)) == [".lock", "checkpoint.pt", "metrics.jsonl", "run.json"]
    first.finish({**STATE, "step": 4})
    assert second.checkpoint()["step"] == 4  # type: ignore[index]
    second.save({**STATE, "step": 5})
    assert (out / "finished.pt").exists(), "that is the first one's"
    first.close()


def test_a_recipe_is_taken_over_when_it_is_known_to_be_possible(out: Path) -> None:
    other = {**RECIPE, "epochs": 70, "minutes": 8.0, "rate": 0.5}
    before = listing(out)
    for rank in (1, 0):
        folder = open_folder(out, resume=True, overwrite=False, rank=rank)
        folder.begin(TASK, other, IDENTITY)
        assert listing(out).keys() - {".lock"} == before.keys()
        assert (out / "run.json").read_bytes() == before["run.json"]
        folder.adopt(other)
        changed = json.loads((out / "run.json").read_text())
        assert changed == {**json.loads(stored()), "recipe": other if rank == 0 else RECIPE}
        folder.close()


def test_whose_certificate_lies_in_the_folder(out: Path) -> None:
    folder = resumed(out)
    assert not folder.certified()
    (out / "model.onnx").write_bytes(b"a model")
    (out / "certify").mkdir()
    for content, known in (
        ({"identity": {"model_sha256": hashlib.sha256(b"a model").hexdigest()}}, True),
        ({"identity": {"model_sha256": "a" * 64}}, False),
        ({}, False),
        ([], False),
    ):
        (out / "certify" / "run.json").write_text(json.dumps(content))
        assert folder.certified() is known
    for damaged in (b"", b"\xff", b"[" * 100_000):
        (out / "certify" / "run.json").write_bytes(damaged)
        assert not folder.certified()
    folder.close()


def test_overwriting_removes_what_training_wrote_and_nothing_else(out: Path) -> None:
    ours = ["model.onnx", "model.md", "finished.pt", "checkpoint.1.pt", "checkpoint.12.pt"]
    ours += [".checkpoint.pt.part", ".finished.pt.part", ".run.json.part"]
    ours += [f"certify/{name}" for name in ("run.json", "samples.jsonl", "batches.jsonl", "summary.json")]
    theirs = ["notes.txt", "plot.svg", "checkpoint.best.pt", "checkpoint.pt.old", "old/run.json", "certify/mine.txt"]
    for name in (*ours, *theirs):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("content")
    folder = open_folder(out, resume=False, overwrite=True)
    assert set(ours) <= listing(out).keys(), "nothing is removed before the new run begins"
    folder.begin(TASK, RECIPE, {**IDENTITY, "eps": "0.25"})
    folder.close()
    left = {name: content for name, content in listing(out).items() if content is not None}
    assert left.keys() == {"run.json", *theirs}
    assert all(left[name] == b"content" for name in theirs)
    assert json.loads(left["run.json"])["identity"]["eps"] == "0.25"


def test_a_mistake_beside_overwrite_costs_nothing(trained: tuple[Asked, Path]) -> None:
    """The earlier run goes only once the new one is known to be possible."""
    before = listing(trained[1])
    data = trained[0].recipe.data
    for wrong in (["--eps", "0"], ["--data", "/nowhere.npz"], ["--device", "abacus"]):
        asked_for = {"--eps": "0.5", "--data": data, **dict([wrong])}
        options = [word for pair in asked_for.items() for word in pair]
        code, lines = said_by_the_command_line("train", "mlp", "--out", trained[1], "--overwrite", *options)
        assert code == 2
        assert len(lines) == 1
        assert listing(trained[1]) == before


def test_overwriting_an_empty_place_is_no_error(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "out", resume=False, overwrite=True)
    folder.begin(TASK, RECIPE, IDENTITY)
    folder.close()
    assert sorted(listing(tmp_path / "out")) == ["run.json"]


def test_the_clock_of_checkpoints_starts_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begun(tmp_path / "out")
    assert folder.due(0.0)
    assert not folder.due(1.0)
    later = llcert_train.folder.time.monotonic() + 61
    monkeypatch.setattr(llcert_train.folder.time, "monotonic", lambda: later)
    assert folder.due(1.0)
    folder.save(STATE)
    assert not folder.due(1.0)
    folder.close()


def test_cards_are_replaced_at_once(out: Path) -> None:
    folder = resumed(out)
    folder.write_card("# one\n")
    folder.write_card("# two\n")
    folder.close()
    assert (out / "model.md").read_text() == "# two\n"
    assert sorted(listing(out)) == ["checkpoint.pt", "metrics.jsonl", "model.md", "run.json"]
