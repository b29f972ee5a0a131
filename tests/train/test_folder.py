"""The folder of a run: what it refuses, what it writes, and what it makes of files that others broke."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_runs import Asked, asked, same

import llcert_train.folder
from llcert.cli import main
from llcert.errors import InvalidInput
from llcert_train.folder import FORMAT, TrainingFolder, open_folder
from llcert_train.metrics import Epoch
from llcert_train.settings import Recipe

RECIPE = Recipe(eps="0.5").to_json()
TASK: dict[str, Any] = {"layout": None}
IDENTITY: dict[str, Any] = {"data": "blobs", "eps": "0.5", "model_sha256": "a" * 64, "processes": 1}
STATE = {"step": 3, "weights": torch.arange(500.0), "optimiser": {"state": {0: {"step": torch.tensor(3.0)}}}}


def begun(path: Path, **identity: Any) -> TrainingFolder:
    folder = open_folder(path, resume=False, overwrite=False)
    folder.begin(TASK, RECIPE, {**IDENTITY, **identity})
    return folder


def resumed(path: Path) -> TrainingFolder:
    folder = open_folder(path, resume=True, overwrite=False)
    folder.begin(TASK, RECIPE, IDENTITY)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The folder of a run that was stopped after step 3 of epochs of 2 steps."""
    folder = begun(tmp_path / "out")
    for number in range(2):
        folder.append(Epoch(number, step=2 * number))
    folder.save(STATE)
    folder.close()
    return tmp_path / "out"


def complaint(error: pytest.ExceptionInfo[InvalidInput]) -> str:
    (line,) = str(error.value).splitlines()
    assert 10 < len(line) < 1000
    return line


def listing(path: Path) -> dict[str, bytes | None]:
    """Every file below a folder and its content."""
    return {str(p.relative_to(path)): p.read_bytes() if p.is_file() else None for p in sorted(path.rglob("*"))}


# Opening


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


# Going on


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


# The end


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


# Damaged checkpoints


def test_a_checkpoint_cut_short(out: Path) -> None:
    whole = (out / "checkpoint.pt").read_bytes()
    chance = random.Random(0)
    for length in (*range(0, 70, 7), *(chance.randrange(len(whole)) for _ in range(60)), len(whole) - 1):
        (out / "checkpoint.pt").write_bytes(whole[:length])
        refused(out)


def refused(path: Path) -> str:
    folder = open_folder(path, resume=True, overwrite=False)
    with pytest.raises(InvalidInput, match=r"checkpoint\.pt: .*--overwrite") as error:
        folder.checkpoint()
    return complaint(error)


def test_a_checkpoint_of_random_bytes(out: Path) -> None:
    chance = random.Random(1)
    for length in (0, 1, 4, 100, 5000):
        (out / "checkpoint.pt").write_bytes(chance.randbytes(length))
        refused(out)
        (out / "checkpoint.pt").write_bytes(b"PK\x03\x04" + chance.randbytes(length))
        refused(out)


def test_a_checkpoint_with_a_bit_turned_is_refused_or_the_same(out: Path) -> None:
    """Wherever the bit is: in a weight, in the pickle, in the zip file's own tables."""
    whole = (out / "checkpoint.pt").read_bytes()
    chance = random.Random(2)
    answers = []
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(chance.choice((1, 1, 3))):
            content[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        answers.append(the_same_or_refused(out, bytes(content)))
    assert answers.count("refused") > 150


def the_same_or_refused(path: Path, content: bytes) -> str:
    """What becomes of a checkpoint of these bytes."""
    (path / "checkpoint.pt").write_bytes(content)
    folder = open_folder(path, resume=True, overwrite=False)
    try:
        state = folder.checkpoint()
    except InvalidInput as error:
        message = str(error)
    else:
        assert same(state, STATE)
        return "the same"
    assert len(message.splitlines()) == 1
    return "refused"


def test_a_checkpoint_with_bytes_put_in_or_left_out(out: Path) -> None:
    whole = (out / "checkpoint.pt").read_bytes()
    chance = random.Random(3)
    for number in range(60):
        place = chance.randrange(len(whole))
        added = chance.randbytes(chance.randrange(1, 50)) if number % 2 else b""
        the_same_or_refused(out, whole[:place] + added + whole[place + chance.randrange(1, 50) :])


class Mischief:
    """Leaves a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


class Evaluated(Mischief):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"__import__('os').mkdir({str(self.trace)!r})",)


def in_a_zip(content: bytes, path: Path) -> None:
    """A checkpoint whose pickle is replaced."""
    torch.save(STATE, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, old in members.items():
            archive.writestr(name, content if name.endswith("data.pkl") else old)


@pytest.mark.parametrize("kind", [Mischief, Evaluated])
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_checkpoint_is_never_run(kind: type[Mischief], protocol: int, out: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    values: list[Any] = [kind(trace), {"step": 3, "weights": kind(trace)}, [kind(trace)]]
    pickle.loads(pickle.dumps(values[0]))  # it would do what it says
    assert trace.is_dir()
    trace.rmdir()
    for value in values:
        content = pickle.dumps(value, protocol)
        (out / "checkpoint.pt").write_bytes(content)
        refused(out)
        in_a_zip(content, out / "checkpoint.pt")
        refused(out)
        torch.save(value, out / "checkpoint.pt", pickle_protocol=protocol)
        refused(out)
        torch.save(value, out / "checkpoint.pt", _use_new_zipfile_serialization=False)
        refused(out)
        assert not trace.exists()


def test_other_files_in_place_of_a_checkpoint(out: Path) -> None:
    path = out / "checkpoint.pt"
    np.savez(out / "images.npz", x=np.zeros(3))
    (out / "images.npz").rename(path)
    refused(out)
    path.unlink()
    with zipfile.ZipFile(path, "w"):
        pass
    refused(out)
    path.unlink()
    path.mkdir()
    refused(out)


@pytest.mark.parametrize(
    "state", [[], None, 5, "text", torch.zeros(3), {}, {"step": None}, {"step": "x"}, {"step": -1}, {"step": True}]
)
def test_a_checkpoint_of_something_else(state: Any, out: Path) -> None:
    torch.save(state, out / "checkpoint.pt")
    refused(out)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Asked, Path]:
    folder = tmp_path_factory.mktemp("stopped")
    question = asked(folder)
    question.begun(folder / "out").go(3)
    return question, folder / "out"


def changes() -> dict[str, Callable[[dict[str, Any]], Any]]:
    """What can be wrong with a state although it can be read."""
    numbers = ("epochs", "minutes", "plan", "phase", "look", "seconds", "epoch_began")
    keys = (*numbers, "sums", "weights", "optimiser", "unmasked", "warm")
    values: dict[str, Any] = {"a text": "x", "a list": [1, 2], "a matrix": torch.zeros(7, 7), "an object": {"a": 1}}
    found: dict[str, Callable[[dict[str, Any]], Any]] = {}
    for key in keys:
        found[f"without {key}"] = lambda s, key=key: s.pop(key)
        for words, value in values.items():
            found[f"{key}: {words}"] = lambda s, key=key, value=value: s.update({key: value})
    found["a weight is missing"] = lambda s: s["weights"].popitem()
    found["a weight is smaller"] = lambda s: s["weights"].update({k: v[:1] for k, v in s["weights"].items()})
    found["a vector is missing"] = lambda s: s["unmasked"].pop()
    found["a warm start is missing"] = lambda s: s["warm"]["vectors"].pop()
    found["fewer warm starts"] = lambda s: s["warm"].update(vectors=[v[:5] for v in s["warm"]["vectors"]])
    found["a smaller moment"] = lambda s: s["optimiser"]["state"][0].update(exp_avg=torch.zeros(1))
    found["a moment of nothing"] = lambda s: s["optimiser"]["state"].update({999: {"exp_avg": torch.zeros(1)}})
    return found


@pytest.mark.parametrize("kind", changes())
def test_a_state_that_is_not_the_runs(kind: str, stopped: tuple[Asked, Path]) -> None:
    question, path = stopped
    folder = open_folder(path, resume=True, overwrite=False)
    state = folder.checkpoint()
    assert state is not None
    changed = dict(state)
    changes()[kind](changed)
    with pytest.raises(InvalidInput, match="--overwrite") as error:
        question.job().trainer.restore(changed)
    complaint(error)


def test_the_checkpoint_of_another_run(stopped: tuple[Asked, Path], tmp_path: Path) -> None:
    """Of another network, put into the folder of this one."""
    question, path = stopped
    other = asked(tmp_path, new=True, arch="mlp")
    other.begun(tmp_path / "out").go(1)
    content = (path / "checkpoint.pt").read_bytes()
    (path / "checkpoint.pt").write_bytes((tmp_path / "out" / "checkpoint.pt").read_bytes())
    with pytest.raises(InvalidInput, match="--overwrite") as error:
        question.begun(path, resume=True)
    complaint(error)
    (path / "checkpoint.pt").write_bytes(content)
    run = question.begun(path, resume=True)
    assert run.job.trainer.step == 3
    run.folder.close()


# Processes of a team


def test_each_process_has_its_own_checkpoint(out: Path) -> None:
    second = open_folder(out, resume=True, overwrite=False, rank=1)
    second.begin(TASK, RECIPE, IDENTITY)
    mine = {**STATE, "weights": torch.ones(3), "warm": {"seen": torch.ones(2)}}
    second.save(mine)
    second.append(Epoch(9, step=18))
    assert same(second.checkpoint(), mine)
    assert [e.epoch for e in second.epochs()] == [0, 1]
    assert same(resumed_state(out), STATE)
    assert (out / "checkpoint.1.pt").exists()


def resumed_state(path: Path) -> Any:
    folder = resumed(path)
    state = folder.checkpoint()
    folder.close()
    return state


def test_a_process_that_was_killed_before_it_saved_takes_the_first_ones_state(out: Path) -> None:
    """Its warm starts are its own, or none; whatever else it had is older, or newer, than the first one's."""
    second = open_folder(out, resume=True, overwrite=False, rank=1)
    assert same(second.checkpoint(), {**STATE, "warm": None})
    warm = {"seen": torch.ones(2)}
    for step in (2, 4):
        second.save({"step": step, "weights": torch.ones(3), "warm": warm})
        assert same(second.checkpoint(), {**STATE, "warm": warm})
    (out / "checkpoint.pt").unlink()
    assert second.checkpoint() is None


# Writing


def test_a_checkpoint_is_replaced_at_once(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new one lies on disk under another name before the old one goes."""
    folder, seen = resumed(out), []
    replace = Path.replace

    def noted(self: Path, target: Path) -> Path:
        seen.append((torch.load(self, weights_only=True)["step"], torch.load(target, weights_only=True)["step"]))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    folder.save({**STATE, "step": 4})
    assert seen == [(4, 3)]
    monkeypatch.undo()
    folder.close()
    assert sorted(listing(out)) == ["checkpoint.pt", "metrics.jsonl", "run.json"]


class Full:
    """A disk that takes so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def failing(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def limited(file: Any, data: Any, *rest: Any) -> Any:
            self.room -= len(memoryview(data).cast("B"))
            if self.room < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(file, data, *rest)

        return limited


class _File(io.FileIO):
    disk = Full(0)

    def write(self, data: Any) -> int:
        return self.disk.failing(io.FileIO.write)(self, data)


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """From now on, files opened for writing take so many bytes in all."""

    def begin(room: int) -> None:
        real = Path.open
        _File.disk = Full(room)

        def opened(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
            if "w" not in mode and "a" not in mode:
                return real(self, mode, *rest, **more)
            return io.BufferedWriter(_File(self, mode), 16)

        monkeypatch.setattr(Path, "open", opened)

    return begin


@pytest.mark.parametrize("room", [0, 1, 300, 1000, 2500])
def test_a_full_disk_under_a_checkpoint(room: int, out: Path, small_disk: Callable[[int], None]) -> None:
    folder, before = resumed(out), listing(out)
    small_disk(room)
    with pytest.raises(InvalidInput, match=r"checkpoint\.pt: cannot be written \(No space left on device\)") as error:
        folder.save({**STATE, "step": 4})
    complaint(error)
    assert listing(out) == before
    assert same(folder.checkpoint(), STATE)
    folder.close()


@pytest.mark.parametrize("room", [0, 5])
def test_a_full_disk_under_the_metrics(room: int, out: Path, small_disk: Callable[[int], None]) -> None:
    """At most an unfinished line is left, which the next run drops."""
    folder, before = resumed(out), listing(out)
    small_disk(room)
    with pytest.raises(InvalidInput, match=r"metrics\.jsonl: cannot be written \(No space left on device\)") as error:
        folder.append(Epoch(2, step=3))
    complaint(error)
    assert [e.epoch for e in folder.epochs()] == [0, 1]
    folder.close()
    assert listing(out).keys() | {".lock"} == before.keys() | {".lock"}


def test_a_full_disk_under_run_json(tmp_path: Path, small_disk: Callable[[int], None]) -> None:
    folder = open_folder(tmp_path / "out", resume=False, overwrite=False)
    small_disk(100)
    with pytest.raises(InvalidInput, match=r"run\.json: cannot be written \(No space left on device\)") as error:
        folder.begin(TASK, RECIPE, IDENTITY)
    complaint(error)
    assert listing(tmp_path / "out") == {}


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_disk_that_fails_late(name: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, before = resumed(out), listing(out)

    def failing(*arguments: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os if name == "fsync" else Path, name, failing)
    with pytest.raises(InvalidInput, match=r"checkpoint\.pt: cannot be written \(Input/output error\)") as error:
        folder.save({**STATE, "step": 4})
    complaint(error)
    monkeypatch.undo()
    assert listing(out) == before
    folder.close()


def test_an_interrupt_while_saving_leaves_the_earlier_checkpoint(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, before = resumed(out), listing(out)

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.save({**STATE, "step": 4})
    monkeypatch.undo()
    assert listing(out) == before
    folder.close()


WRITER = """
import resource, sys, warnings
warnings.simplefilter("error")
import torch
from pathlib import Path
from llcert.errors import InvalidInput
from llcert_train.folder import open_folder
folder = open_folder(Path(sys.argv[1]), resume=True, overwrite=False)
folder.begin(*[__import__("json").loads(a) for a in sys.argv[2:5]])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    folder.save({"step": 4, "weights": torch.zeros(100_000)})
except InvalidInput as error:
    print(error)
folder.close()
"""


@pytest.mark.skipif(os.name == "nt", reason="a POSIX limit")
def test_a_file_the_system_does_not_let_grow(out: Path) -> None:
    before = listing(out)
    command = [sys.executable, "-c", WRITER, str(out), *map(json.dumps, (TASK, RECIPE, IDENTITY))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert line == f"{out / 'checkpoint.pt'}: cannot be written (File too large)"
    assert done.stderr == ""
    assert listing(out) == before


# Two at once


def test_a_second_process_is_kept_out(out: Path) -> None:
    """Whether it wants to go on or to begin anew: nothing of the first one's is touched."""
    first, before = resumed(out), listing(out)
    for how in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
        second = open_folder(out, **how)
        with pytest.raises(InvalidInput, match="another llcert is at work in this folder") as error:
            second.begin(TASK, RECIPE, IDENTITY)
        complaint(error)
        second.close()
        assert listing(out) == before
    first.save({**STATE, "step": 4})
    first.close()
    again = resumed(out)
    assert again.checkpoint()["step"] == 4  # type: ignore[index]
    again.close()


HOLDER = """
import json, sys, time
from pathlib import Path
from llcert_train.folder import open_folder
folder = open_folder(Path(sys.argv[1]), resume=True, overwrite=False)
folder.begin(*[json.loads(a) for a in sys.argv[2:5]])
print("begun", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="has no such locks")
def test_a_process_that_is_killed_lets_go(out: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(out), *map(json.dumps, (TASK, RECIPE, IDENTITY))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        with pytest.raises(InvalidInput, match="another llcert is at work"):
            resumed(out)
        process.kill()
    again = resumed(out)
    again.close()
    assert sorted(listing(out)) == ["checkpoint.pt", "metrics.jsonl", "run.json"]


# Beginning anew


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
