"""`llcert check` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llcert.cli import main

from .generator import random_case, write
from .test_certificates import change


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    case = random_case(2, margin=True)
    return write(tmp_path, case.toy, case.eps, [(case.label, case.found)] * 3)


def test_all_accepted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder)]) == 0
    printed = capsys.readouterr()
    assert printed.out == "accepted 3 of 3\n"
    assert printed.err == ""


def test_a_rejected_image_has_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(folder, "images/1.npz", lambda a: a.update({k: a[k] / 2 for k in a if k.endswith(".radius")}))
    assert main(["check", str(folder)]) == 1
    printed = capsys.readouterr()
    assert printed.out == "accepted 2 of 3\n"
    (line,) = printed.err.splitlines()
    assert line.startswith("rejected: image 1: rule 5 (radius), block 2: ")


def test_a_changed_network_rejects_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "graph.json"
    path.write_text(path.read_text() + " ")
    assert main(["check", str(folder)]) == 1
    printed = capsys.readouterr()
    assert printed.out == "accepted 0 of 3\n"
    assert set(printed.err.splitlines()) == {"rejected: graph.json: its SHA-256 is not the one in certificate.json"}


def test_a_certificate_of_nothing_is_no_success(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(folder, "certificate.json", lambda c: c.update(images=[]))
    assert main(["check", str(folder)]) == 1
    printed = capsys.readouterr()
    assert printed.out == "accepted 0 of 0: the certificate is of no image, nothing is proved\n"


@pytest.mark.parametrize("content", [None, "", "[]", json.dumps({"format": 1})])
def test_what_cannot_be_read(content: str | None, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "certificate.json"
    path.unlink() if content is None else path.write_text(content)
    assert main(["check", str(folder)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: certificate.json: ")
