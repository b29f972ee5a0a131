"""What a run leaves on disk, and what the next one makes of it, wherever the first was cut off."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llcert.certification import BatchResult, LayerMeasure, Sample, StageCount, Verdict
from llcert.errors import InvalidInput
from llcert.options import Options
from llcert.runs.run_directory import BATCHES, FILES, RUN, SAMPLES, open_directory

OPTIONS = Options(eps="0.5", batch_size=2)
IDENTITY = {"eps": 0.5, "stages": ("global", "local"), "seed": 0}


def batch(first: int) -> BatchResult:
    samples = tuple(
        Sample(i, 3, 3, Verdict.UNDECIDED, None, -0.1234567890123 * i, 2.5, None, seconds=0.5)
        for i in range(first, first + 2)
    )
    layer = LayerMeasure(torch.tensor([1.1, 2.2]), torch.tensor([3, first]), torch.tensor([0.25, torch.nan]))
    return BatchResult(samples, (StageCount("clean", 2, 0, 0.1),), (layer,))


def written(path: Path, batches: Sequence[int]) -> None:
    directory = open_directory(path, resume=False, overwrite=False)
    directory.begin(OPTIONS, IDENTITY)
    for first in batches:
        directory.append(batch(first))
    directory.close()


def test_the_folder_of_the_certificate_is_remembered(tmp_path: Path) -> None:
    begun: tuple[Path | None, ...] = (None, tmp_path / "proof", tmp_path / "elsewhere")
    for number, proof in enumerate(begun):
        directory = open_directory(tmp_path / "out", resume=True, overwrite=False)
        known = None if directory.earlier is None else directory.earlier.proof
        assert known == (begun[number - 1] if number else None)
        directory.begin(OPTIONS, IDENTITY, proof=proof)
        directory.close()
    content = json.loads((tmp_path / "out" / RUN).read_text())
    assert content["proof"] == str(tmp_path / "elsewhere")
    assert (content["question"], content["identity"]["seed"]) == (OPTIONS.to_json(), 0)


def test_samples_have_the_keys_programs_rely_on(tmp_path: Path) -> None:
    written(tmp_path / "out", [0])
    lines = (tmp_path / "out" / SAMPLES).read_text().splitlines()
    assert list(json.loads(lines[0])) == [
        "index",
        "label",
        "prediction",
        "verdict",
        "stage",
        "margin",
        "local_lipschitz",
        "radius_growth",
        "assurance",
        "radius",
        "unbounded",
        "eps",
        "in_range",
        "disputed",
        "within",
    ]
    assert json.loads(lines[1])["margin"] == -0.12345679  # a lower bound, rounded down


def test_a_run_is_read_back_as_it_was(tmp_path: Path) -> None:
    written(tmp_path / "out", [0, 2])
    directory = open_directory(tmp_path / "out", resume=True, overwrite=False)
    first, second = directory.begin(OPTIONS, IDENTITY)
    directory.close()
    assert second.stages == batch(2).stages
    assert [s.index for s in (*first.samples, *second.samples)] == [0, 1, 2, 3]
    assert first.samples[0].seconds == 0.5
    torch.testing.assert_close(second.layers[0].norm, torch.tensor([1.1, 2.2]).double(), rtol=0, atol=0)
    assert second.layers[0].iterations.tolist() == [3, 2]
    assert second.layers[0].varying.isnan().tolist() == [False, True]


@pytest.mark.parametrize("name", [SAMPLES, BATCHES])
def test_cut_off_anywhere_the_rest_is_written_again(tmp_path: Path, name: str) -> None:
    written(tmp_path / "whole", [0, 2])
    whole = {f: (tmp_path / "whole" / f).read_bytes() for f in FILES if (tmp_path / "whole" / f).exists()}
    for length in range(0, len(whole[name]), 7):
        path = tmp_path / f"cut{length}"
        path.mkdir()
        for file, content in whole.items():
            (path / file).write_bytes(content[:length] if file == name else content)
        directory = open_directory(path, resume=True, overwrite=False)
        done = len(directory.begin(OPTIONS, IDENTITY))
        assert done < 2
        for first in (0, 2)[done:]:
            directory.append(batch(first))
        directory.close()
        assert all((path / file).read_bytes() == content for file, content in whole.items())


def test_killed_before_its_first_line_a_run_starts_anew(tmp_path: Path) -> None:
    for name in (SAMPLES, BATCHES):
        (tmp_path / name).touch()
    directory = open_directory(tmp_path, resume=True, overwrite=False)
    assert directory.earlier is None
    assert directory.begin(OPTIONS, IDENTITY) == ()
    directory.close()


@pytest.mark.parametrize(
    ("name", "value"), [("eps", 0.25), ("seed", 1), ("stages", ["local"]), ("model_sha256", "other")]
)
def test_another_question_is_refused_by_name(tmp_path: Path, name: str, value: object) -> None:
    written(tmp_path / "out", [0])
    directory = open_directory(tmp_path / "out", resume=True, overwrite=False)
    with pytest.raises(InvalidInput, match=f"--resume: {name} is"):
        directory.begin(OPTIONS, {**IDENTITY, name: value})


def test_an_earlier_run_needs_a_word(tmp_path: Path) -> None:
    written(tmp_path / "out", [0])
    with pytest.raises(InvalidInput, match=r"--resume .* --overwrite"):
        open_directory(tmp_path / "out", resume=False, overwrite=False)
    with pytest.raises(InvalidInput, match="exclude"):
        open_directory(tmp_path / "out", resume=True, overwrite=True)


def test_overwriting_removes_only_what_llcert_wrote(tmp_path: Path) -> None:
    written(tmp_path / "out", [0])
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    directory = open_directory(tmp_path / "out", resume=False, overwrite=True)
    assert directory.begin(OPTIONS, IDENTITY) == ()
    directory.close()
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"
    assert (tmp_path / "out" / SAMPLES).read_text() == ""


@pytest.mark.parametrize("overwrite", [True, False])
def test_files_of_others_are_left_alone(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "summary.json").write_text('{"of": "another program"}')
    with pytest.raises(InvalidInput, match=r"summary\.json"):
        open_directory(tmp_path, resume=not overwrite, overwrite=overwrite)
    (tmp_path / RUN).write_text("not ours either")
    with pytest.raises(InvalidInput, match="not written by llcert"):
        open_directory(tmp_path, resume=not overwrite, overwrite=overwrite)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InvalidInput, match="not a folder"):
        open_directory(tmp_path / "out", resume=False, overwrite=False)


@pytest.mark.parametrize("line", ['{"end": "x"}', "[]", "nonsense", '{"end": 9}'])
def test_damage_is_told(tmp_path: Path, line: str) -> None:
    written(tmp_path / "out", [0])
    (tmp_path / "out" / BATCHES).write_text(line + "\n")
    directory = open_directory(tmp_path / "out", resume=True, overwrite=False)
    with pytest.raises(InvalidInput, match="damaged"):
        directory.begin(OPTIONS, IDENTITY)


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    one = open_directory(tmp_path, resume=False, overwrite=False)
    one.begin(OPTIONS, IDENTITY)
    other = open_directory(tmp_path, resume=True, overwrite=False)
    with pytest.raises(InvalidInput, match="another llcert"):
        other.begin(OPTIONS, IDENTITY)
    one.close()


def test_infinite_margins_never_reach_the_disk(tmp_path: Path) -> None:
    directory = open_directory(tmp_path, resume=False, overwrite=False)
    directory.begin(OPTIONS, IDENTITY)
    bad = batch(0)
    bad = replace(bad, samples=tuple(replace(s, margin=float("inf")) for s in bad.samples))
    with pytest.raises(ValueError, match="JSON"):
        directory.append(bad)
    directory.close()


EARLIER = """{"format": "llcert run 1", "question": {"eps": ["0.1", "36/255"], "data_root": "/data", "samples": "8",
"stages": ["global", "local"], "batch_size": 8, "mean": [0.5], "pixel_range": "0,1", "steps": 20, "patience": 0,
"iterations": 50, "clip_input": true, "radius": true}, "identity": {"seed": 0, "batch_size": 8}}"""
"""`run.json` as versions before the options were declared wrote it."""


def test_a_run_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / RUN).write_text(EARLIER)
    stored = open_directory(tmp_path, resume=True, overwrite=False).earlier
    assert stored is not None
    assert stored.options == Options(
        eps=("0.1", "36/255"),
        data_root="/data",
        samples="8",
        stages=("global", "local"),
        batch_size=8,
        mean=(0.5,),
        pixel_range="0,1",
        steps=20,
        patience=0,
        iterations=50,
        clip_input=True,
        radius=True,
    )
    written = {k: list(v) if isinstance(v, tuple) else v for k, v in stored.options.to_json().items()}
    assert written == json.loads(EARLIER)["question"]
