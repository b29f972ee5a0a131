"""`llcert check` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llcert.cli import main

from .cases import change, random_case, write

CASE = random_case(5, margin=True)
CLAIM = f"the label stays first, eps {CASE.eps}, semantics real"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    case = CASE
    return write(tmp_path, case.toy, case.eps, [(case.label, case.found)] * 3)


def test_all_accepted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"accepted 3 of 3: {CLAIM}\n"
    assert printed.err == ""


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"claim": {"top": 1}}, "the label stays first, eps {eps}, semantics real"),
        ({"claim": {"top": 2}}, "the label stays among the 2 largest logits, eps {eps}, semantics real"),
        (
            {"claim": {"top": 1, "within": ["-9", "2.7182818284"]}, "eps": "1/1000"},
            "the label stays first, eps 1/1000, semantics real, for pixels from -9 to 2.7182818284 only",
        ),
        ({"eps": "1e-3"}, "the label stays first, eps 1e-3, semantics real"),
        ({"eps": None}, "the label stays first, an eps for each image, semantics real"),
    ],
)
def test_what_is_accepted_is_stated(
    asked: dict[str, Any], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(content: dict[str, Any]) -> None:
        if "eps" in asked and asked["eps"] is None:
            content["images"] = [image | {"eps": content["eps"]} for image in content["images"]]
        content.update(asked)

    add_input_ends(folder)
    change(folder, "certificate.json", edit)
    assert main(["check", str(folder)]) == 0
    assert capsys.readouterr().out == f"accepted 3 of 3: {said.format(eps=CASE.eps)}\n"


def test_a_class_that_is_never_answered_is_stated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    never = next(j for j in range(CASE.toy.classes) if j != CASE.label)

    def edit(content: dict[str, Any]) -> None:
        content["claim"] = {"never": never}
        content["images"] = [{**image, "reference": image.pop("label")} for image in content["images"]]

    change(folder, "certificate.json", edit)
    assert main(["check", str(folder)]) == 0
    said = f"the network never answers class {never}, eps {CASE.eps}, semantics real"
    assert capsys.readouterr().out == f"accepted 3 of 3: {said}\n"


def add_input_ends(folder: Path) -> None:
    """What a claim about a range of pixels needs for rows that stop at the image."""
    for i in range(3):
        ends = {f"{j}.end.0": np.array(0.0) for j in range(CASE.toy.nodes[-1]["size"])}
        change(folder, f"images/{i}.npz", lambda a, ends=ends: a.update(ends | a))


def test_a_rejected_image_has_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(folder, "images/1.npz", lambda a: a.update({k: a[k] / 2 for k in a if k.endswith(".radius")}))
    assert main(["check", str(folder)]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"accepted 2 of 3: {CLAIM}\n"
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
