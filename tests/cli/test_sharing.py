"""Several processes certify together: the same files as one writes, whoever is killed and however many go on."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from launching import TESTS, ended, linux, members, torchrun

from .conftest import Run
from .test_certify import timeless

pytestmark = linux

MODEL = TESTS.parent / "models" / "digits_relu_theta.onnx"
ASKED = ("certify", str(MODEL), "--samples", "60", "--batch-size", "2", "--stages", "global,attack,local")
BATCHES = 30
MEMBER = str(TESTS / "sharing_member.py")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one process that was left alone."""
    from llcert.cli import main

    out = tmp_path_factory.mktemp("whole") / "out"
    assert main([*ASKED, "--out", str(out)]) == 0
    return out


def same(out: Path, whole: Path) -> None:
    assert (out / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    assert timeless(out / "summary.json") == timeless(whole / "summary.json")
    assert not (out / "batches.ahead").exists()


def dealt(log: Path) -> list[list[int]]:
    """Process, batch, and whether it was checked, in the order in which they were begun."""
    return [[int(n) for n in line.split()] for line in log.read_text().splitlines()] if log.exists() else []


def shared_until_killed(out: Path, log: Path, size: int) -> int:
    """Kills all processes once each of them has finished a batch; how many batches are on disk."""
    with members(size, MEMBER, *ASKED, "--out", str(out), DEALT=str(log)) as processes:
        while not all(sum(rank == r for r, _, _ in dealt(log)) > 1 for rank in range(size)):
            assert all(p.poll() is None for p in processes), ended(processes)
            time.sleep(0.01)
        for process in processes:
            process.kill()
    return kept(out)


def kept(out: Path) -> int:
    return (out / "batches.jsonl").read_bytes().count(b"\n") + len(list((out / "batches.ahead").glob("[0-9]*.json")))


def test_killed_together_and_resumed_alone(run: Run, whole: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "dealt"
    on_disk = shared_until_killed(out, log, 2)
    begun = dealt(log)
    assert len({number for _, number, _ in begun}) == len(begun), "no batch is dealt twice"
    assert [number for _, number, checked in begun if checked] == [0]
    assert len(begun) - 2 <= on_disk < BATCHES, "all is kept but what was in flight"
    assert run("certify", MODEL, "--out", out, "--resume").code == 0
    same(out, whole)


def test_begun_alone_and_resumed_together(whole: Path, tmp_path: Path) -> None:
    """torchrun, one report, as JSON."""
    out, log = tmp_path / "out", tmp_path / "dealt"
    shutil.copytree(whole, out)
    written = (out / "batches.jsonl").read_bytes().splitlines(keepends=True)
    (out / "batches.jsonl").write_bytes(b"".join(written[:4]))
    asked = ["certify", str(MODEL), "--out", str(out), "--resume", "--json", "-", "--tsv", str(tmp_path / "a.tsv")]
    done = torchrun(2, MEMBER, *asked, DEALT=str(log))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["complete"]
    assert len((tmp_path / "a.tsv").read_text().splitlines()) == 61
    begun = dealt(log)
    assert sorted(number for _, number, _ in begun) == list(range(4, BATCHES))
    assert {rank for rank, _, _ in begun} == {0, 1}
    same(out, whole)


def fails(fault: str, tmp_path: Path, *more: str) -> list[tuple[int, str, str]]:
    with members(2, MEMBER, *ASKED, *more, FAULT=fault, TMPDIR=str(tmp_path)) as processes:
        return ended(processes)


def errors(results: list[tuple[int, str, str]]) -> list[str]:
    return [line for _, _, err in results for line in err.splitlines() if line.startswith("error: ")]


def test_a_failure_is_told_once_and_ends_all(tmp_path: Path) -> None:
    results = fails("1 contradiction", tmp_path, "--out", str(tmp_path / "out"))
    assert [code for code, _, _ in results] == [3, 3]
    (line,) = errors(results)
    assert "contradiction_7.npz" in line
    assert (tmp_path / "out" / "contradiction_7.npz").exists()
    assert kept(tmp_path / "out") >= 1


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("name", "code"), [("memory", 2), ("bug", 3), ("interrupt", 130)])
def test_whoever_fails_however(rank: int, name: str, code: int, tmp_path: Path) -> None:
    """Without --out nothing stays behind."""
    results = fails(f"{rank} {name}", tmp_path)
    assert [found for found, _, _ in results] == [code, code]
    assert len(errors(results)) == (0 if name == "interrupt" else 1)
    assert sum("interrupted after" in err for _, _, err in results) == (name == "interrupt")
    assert "".join(out for _, out, _ in results) == ""
    assert not list(tmp_path.glob("llcert-*"))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_is_killed_ends_all_under_torchrun(rank: int, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    started = time.monotonic()
    assert torchrun(2, MEMBER, *ASKED, "--out", str(out), FAULT=f"{rank} kill").returncode != 0
    assert time.monotonic() - started < 60
    assert torchrun(2, "-m", "llcert", "certify", str(MODEL), "--out", str(out), "--resume").returncode == 0
    same(out, whole)


@pytest.mark.slow
def test_four_then_two_then_four(whole: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "dealt"
    assert shared_until_killed(out, log, 4) >= 4
    resumed = ("certify", str(MODEL), "--out", str(out), "--resume")
    with members(2, MEMBER, *resumed, FAULT="0 interrupt") as processes:
        assert [code for code, _, _ in ended(processes)] == [130, 130]
    with members(4, MEMBER, *resumed) as processes:
        results = ended(processes)
    assert [code for code, _, _ in results] == [0, 0, 0, 0], results
    assert [bool(text) for _, text, _ in results] == [True, False, False, False]
    same(out, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--nope"], "No such option"),
        (["--eps", "-1"], "eps"),
        (["--fail-under", "101"], "--fail-under"),
    ],
)
def test_bad_input_is_told_once(more: list[str], words: str) -> None:
    with members(2, "-m", "llcert", *ASKED, *more) as processes:
        results = ended(processes)
    assert [code for code, _, _ in results] == [2, 2]
    (line,) = errors(results)
    assert words in line


def claims(tmp_path: Path) -> list[list[Any]]:
    radii = tmp_path / "radii.txt"
    radii.write_text("\n".join(f"{0.1 + i / 100}" for i in range(24)))
    return [["--eps-file", str(radii)], ["--target", "3"], ["--top", "2"], ["--fail-under", "99"], ["--radius"]]


@pytest.mark.slow
def test_every_claim(run: Run, tmp_path: Path) -> None:
    asked = ["certify", str(MODEL), "--samples", "24", "--batch-size", "2", "--stages", "global,attack,local"]
    for number, more in enumerate(claims(tmp_path)):
        one, two = tmp_path / f"one{number}", tmp_path / f"two{number}"
        code = run(*asked, *more, "--out", one).code
        with members(2, MEMBER, *asked, *more, "--out", str(two)) as processes:
            assert [c for c, _, _ in ended(processes)] == [code, 0]
        same(two, one)


def test_a_certificate_by_two_processes_is_that_of_one(run: Run, tmp_path: Path) -> None:
    """Evidence comes with the results, whichever process computes them."""
    asked = ("certify", str(MODEL), "--samples", "12", "--batch-size", "2", "--stages", "local,crown-ball-intermediate")
    assert run(*asked, "--proof", tmp_path / "one").code == 0
    with members(2, MEMBER, *asked, "--proof", str(tmp_path / "two"), DEALT=str(tmp_path / "dealt")) as processes:
        results = ended(processes)
    assert [code for code, _, _ in results] == [0, 0], results
    assert {rank for rank, _, _ in dealt(tmp_path / "dealt")} == {0, 1}
    one, two = (sorted(p for p in (tmp_path / name).rglob("*") if p.is_file()) for name in ("one", "two"))
    assert [p.name for p in one] == [p.name for p in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))
    assert run("check", tmp_path / "two").code == 0
