"""`--eps-file`, `--target` and `--top`: from files and options to verdicts, reports and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import llcert
from llcert.certification import Radii

from .conftest import Run


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines))
    return path


def samples(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


@pytest.fixture
def radii(tmp_path: Path) -> Path:
    """Of 24 images."""
    numbers = [f"{5 + 5 * i}/255  # of image {i}" if i % 2 else f"{0.01 + 0.02 * i:.4f}" for i in range(24)]
    return written(tmp_path / "radii.txt", "# pixel units", "", *numbers, "")


def test_every_output_states_each_image_s_radius(run: Run, model: Path, radii: Path, tmp_path: Path) -> None:
    out, tsv = tmp_path / "out", tmp_path / "a.tsv"
    result = run("certify", model, "--samples", "100:124", "--eps-file", radii, "--out", out, "--tsv", tsv)
    assert result.code == 0
    assert "0.01 to 0.470588, median" in result.out
    assert "each image's own" in " ".join(result.out.split())
    found, summary = samples(out), json.loads((out / "summary.json").read_text())
    expected = [(5 + 5 * i) / 255 if i % 2 else float(f"{0.01 + 0.02 * i:.4f}") for i in range(24)]
    assert [s["eps"] for s in found] == expected == summary["radii"]
    assert summary["eps"] is None
    assert summary["eps_text"] == str(radii)
    rows = [line.split("\t") for line in tsv.read_text().splitlines()[1:]]
    for sample, row in zip(found, rows, strict=True):
        assert float(row[3]) == (sample["eps"] if sample["verdict"] == "certified" else 0.0)
    assert {s["verdict"] for s in found} >= {"certified", "attacked"}


def test_radii_of_all_images_are_those_of_the_chosen(run: Run, model: Path, tmp_path: Path) -> None:
    numbers = np.linspace(0.01, 0.3, 360, dtype=np.float32)
    np.save(tmp_path / "radii.npy", numbers)
    asked = ("certify", model, "--samples", "200:220", "--eps-file", tmp_path / "radii.npy", "--out", tmp_path / "out")
    assert run(*asked).code == 0
    assert [s["eps"] for s in samples(tmp_path / "out")] == numbers[200:220].astype(float).tolist()


def test_one_radius_in_a_file_or_by_eps_is_the_same(run: Run, model: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "r.txt", *["36/255"] * 30)
    assert run("certify", model, "--samples", 30, "--eps-file", file, "--out", tmp_path / "a").code == 0
    assert run("certify", model, "--samples", 30, "--eps", "36/255", "--out", tmp_path / "b").code == 0
    assert samples(tmp_path / "a") == samples(tmp_path / "b")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["0.1"] * 3, "holds 3 radii; digits holds 360 images, of which 4 are chosen"),
        (["0.1"] * 5, "holds 5 radii"),
        ([], "holds no radius"),
        (["# nothing"], "holds no radius"),
        (["0.1", "0.2", "", "nan", "0.1"], "line 4: eps 'nan'"),
        (["0.1", "-0.2", "0.1", "0.1"], "line 2: eps '-0.2'"),
        (["0.1", "inf", "0.1", "0.1"], "line 2: eps 'inf'"),
        (["0.1", "1/0", "0.1", "0.1"], "line 2"),
        (["# c", "0.1", "0.1 0.2", "0.1"], "line 3: eps '0.1 0.2'"),
        (["0.1", "0.1", "0.1", "big # words"], "line 4: eps 'big'"),
        (["0.1", "0.1", "0.1", "9" * 5000], "line 4"),
        (["0.1", "0.1\x000.2", "0.1", "0.1"], "line 2"),
    ],
)
def test_files_of_nonsense_are_one_line(run: Run, model: Path, tmp_path: Path, lines: list[str], words: str) -> None:
    file = written(tmp_path / "r.txt", *lines)
    result = run("certify", model, "--samples", 4, "--eps-file", file)
    assert result.code == 2
    assert result.out == ""
    assert str(file) in result.complaint
    assert words in result.complaint


HOSTILE: dict[str, Any] = {
    "nan": (np.array([0.1, np.nan, 0.1, 0.1]), "entry 1: eps 'nan'"),
    "negative": (np.array([0.1, 0.1, -0.1, 0.1]), "entry 2: eps '-0.1'"),
    "infinite": (np.array([np.inf] * 4), "entry 0: eps 'inf'"),
    "too many": (np.ones(5), "holds 5 radii"),
    "a table": (np.ones((4, 1)), "expected a vector of numbers"),
    "a number": (np.float64(0.1), "expected a vector of numbers"),
    "words": (np.array(["0.1"] * 4), "expected a vector of numbers"),
    "truths": (np.array([True] * 4), "expected a vector of numbers"),
    "complex": (np.ones(4) * 1j, "expected a vector of numbers"),
    "pickled": (np.array([{}, 1, 2, 3], dtype=object), "not a plain array of numbers"),
    "none": (np.zeros(0), "holds no radius"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_vectors_of_nonsense_are_one_line(run: Run, model: Path, tmp_path: Path, name: str) -> None:
    values, words = HOSTILE[name]
    file = tmp_path / "r.npy"
    np.save(file, values, allow_pickle=True)
    result = run("certify", model, "--samples", 4, "--eps-file", file)
    assert result.code == 2
    assert str(file) in result.complaint
    assert words in result.complaint


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04", b"\xff\xfe0.1", b"\x93NUMPY\x01\x00\xff\xff{"])
@pytest.mark.parametrize("name", ["r.npy", "r.txt"])
def test_bytes_that_are_no_file_of_radii_are_one_line(
    run: Run, model: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    result = run("certify", model, "--samples", 4, "--eps-file", tmp_path / name)
    assert result.code == 2
    assert str(tmp_path / name) in result.complaint


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--eps-file", "/no/such/file"], "/no/such/file"),
        (["--eps-file", "/"], "not a file"),
        (["--eps", "0.1", "--eps-file", "x"], "--eps and --eps-file exclude each other"),
        (["--target", "3", "--top", "2"], "--target and --top exclude each other"),
        (["--target", "10"], "classes 0 to 9"),
        (["--target", "-1"], "classes 0 to 9"),
        (["--target", "dog"], "--target"),
        (["--top", "0"], "1 to 9"),
        (["--top", "10"], "1 to 9"),
        (["--top", "-3"], "1 to 9"),
    ],
)
def test_nonsense_is_one_line(run: Run, model: Path, arguments: list[str], words: str) -> None:
    result = run("certify", model, "--samples", 4, *arguments)
    assert result.code == 2
    assert result.out == ""
    assert words in result.complaint


def test_a_class_that_is_never_answered(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("certify", model, "--samples", 60, "--target", 8, "--out", out)
    assert result.code == 0
    left = 60 - len(samples(out))
    assert left > 0
    assert f"{60 - left} images" in result.out
    words = " ".join(result.out.split())
    assert f"the network never answers class 8; images of that class left out: {left}" in words
    assert "never 8:" in result.out
    found, summary = samples(out), json.loads((out / "summary.json").read_text())
    assert not any(s["label"] == 8 for s in found)
    assert (summary["claim"], summary["left_out"]) == ({"never": 8}, left)
    assert summary["samples"] == summary["asked"] == 60 - left
    already = [s for s in found if s["verdict"] == "misclassified"]
    assert all(s["prediction"] == 8 for s in already)
    if already:
        assert "answered 8 already" in result.out
    assert any(s["prediction"] != s["label"] and s["verdict"] != "misclassified" for s in found)


def test_where_every_image_is_left_out_there_is_one_line(run: Run, model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((3, 1, 8, 8), np.uint8), y=np.array([4, 4, 4]))
    result = run("certify", model, "--data", tmp_path / "d.npz", "--target", 4)
    assert result.code == 2
    assert "every chosen image has that label" in result.complaint


def test_the_label_among_the_largest(run: Run, model: Path, tmp_path: Path) -> None:
    shares = []
    for count in (1, 2, 3):
        out = tmp_path / str(count)
        result = run("certify", model, "--samples", 60, "--top", count, "--out", out)
        assert result.code == 0
        summary = json.loads((out / "summary.json").read_text())
        assert summary["claim"] == {"top": count}
        assert ("among the" in result.out) == (count > 1)
        shares.append((summary["clean_accuracy"], summary["certified_accuracy"]))
    assert shares == sorted(shares)
    assert shares[0][1] < shares[2][1]


def test_top_one_is_what_is_claimed_anyway(run: Run, model: Path, tmp_path: Path) -> None:
    for name, more in (("a", ()), ("b", ("--top", 1))):
        assert run("certify", model, "--samples", 20, *more, "--out", tmp_path / name).code == 0
    assert samples(tmp_path / "a") == samples(tmp_path / "b")


def test_randomised_smoothing_files_say_what_else_is_claimed(run: Run, model: Path, tmp_path: Path) -> None:
    def columns(*asked: object) -> list[str]:
        tsv = tmp_path / "a.tsv"
        assert run("certify", model, "--samples", 4, "--stages", "global", *asked, "--tsv", tsv).code == 0
        first, second, *_ = tsv.read_text().splitlines()
        return [f"{n}={v}" for n, v in zip(first.split("\t"), second.split("\t"), strict=True)][6:]

    assert columns() == []
    assert columns("--top", 3) == ["claim=top 3"]
    assert columns("--target", 8, "--assurance", "estimate") == ["claim=never 8", "assurance=estimate"]


def test_an_attack_breaks_other_claims(run: Run, model: Path, radii: Path) -> None:
    asked = ("attack", model, "--samples", 24, "--eps-file", radii, "--json", "-")
    least = json.loads(run(*asked).out)["attacked_accuracy"]
    assert json.loads(run(*asked, "--top", 3).out)["attacked_accuracy"] >= least
    assert json.loads(run(*asked, "--target", 0).out)["claim"] == {"never": 0}


def test_another_claim_or_radius_is_not_resumed(run: Run, model: Path, radii: Path, tmp_path: Path) -> None:
    out, plain = tmp_path / "out", tmp_path / "plain"
    asked = ("certify", model, "--samples", 24, "--out")
    assert run(*asked, out, "--eps-file", radii, "--target", 3).code == 0
    before = (out / "samples.jsonl").read_bytes()
    assert run("certify", model, "--out", out, "--resume").code == 0
    assert (out / "samples.jsonl").read_bytes() == before
    assert "claim" in run(*asked, out, "--resume", "--target", 4).complaint
    assert "claim" in run(*asked, out, "--resume", "--top", 2).complaint
    assert "eps is 0.1" in run(*asked, out, "--resume", "--eps", 0.1).complaint
    radii.write_text(radii.read_text().replace("0.0100", "0.0101"))
    assert "radii_sha256" in run("certify", model, "--out", out, "--resume").complaint
    assert (out / "samples.jsonl").read_bytes() == before
    assert run(*asked, plain).code == 0
    assert "claim" in run(*asked, plain, "--resume", "--top", 2).complaint
    assert "eps is None" in run(*asked, plain, "--resume", "--eps-file", radii).complaint


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, lambda v: [str(e) for e in v]])
def test_radii_in_python(model: Path, kind: Any) -> None:
    network, values = llcert.load(model), [0.05, 0.1, 0.2, 0.4]
    report = llcert.certify(network, "digits", eps=kind(values), samples="4", stages=["global"], self_check=False)
    assert [s.eps for s in report.samples] == pytest.approx(values)
    assert isinstance(report.subject.settings.eps, Radii)
    with pytest.raises(llcert.errors.InvalidInput, match="holds 3 radii"):
        llcert.certify(network, "digits", eps=kind(values[:3]), samples="4")


def test_claims_in_python(model: Path) -> None:
    network = llcert.load(model)
    report = llcert.certify(network, "digits", samples="20", target=1, stages="global", self_check=False)
    assert report.subject.left_out == 20 - len(report.samples)
    assert llcert.certify(network, "digits", samples="4", top=3).to_json()["claim"] == {"top": 3}
