"""`llcert inspect` and `llcert attack`."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import onnx.parser

from .conftest import Run


def test_inspect_shows_what_was_made_of_a_file(run: Run, model: Path) -> None:
    result = run("inspect", model)
    assert result.code == 0
    assert result.err == ""
    for words in (
        "Linear + ReLU",
        "llcert.eps = 0.25",
        "agrees with onnxruntime",
        "global norm",
        "Folded",
        "accepts it",
    ):
        assert words in result.out
    assert max(map(len, result.out.splitlines())) <= 80


def test_inspect_lists_the_casts(run: Run, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (double[N, 4] x) => (float[N, 4] y) { a = Relu(x) [narrowed] b = Cast<to=1>(a) y = Relu(b) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "mixed.onnx")
    result = run("inspect", tmp_path / "mixed.onnx")
    assert result.code == 0
    assert ["cast", "narrowed", "into", "float32"] in [line.split() for line in result.out.splitlines()]
    assert "float64, any batch size" in result.out


def test_inspect_refuses_in_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "noise.onnx").write_bytes(bytes(range(256)))
    result = run("inspect", tmp_path / "noise.onnx")
    assert result.code == 2
    assert "noise.onnx" in result.complaint


def test_inspect_lists_every_operator_without_a_rule(run: Run, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x) => (float[N, 4] y) { a = Sign(x) b = Erf(a) c = Sign(b) s = Shape(c) y = Reshape(c, s) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "odd.onnx")
    result = run("inspect", tmp_path / "odd.onnx")
    assert result.code == 2
    assert [line.split()[:2] for line in result.out.splitlines()] == [["refused", "Sign"], ["refused", "Erf"]]
    assert "step function" in result.out


def test_cross_check_agrees_or_says_why_not(run: Run, model: Path) -> None:
    result = run("inspect", model, "--cross-check")
    if result.code:
        assert "onnx2torch" in result.complaint
    else:
        assert "agrees with onnx2torch" in result.out


def test_cross_check_is_for_onnx_alone(run: Run, tmp_path: Path) -> None:
    assert ".onnx" in run("inspect", tmp_path / "model.pt2", "--cross-check").complaint


def test_attack_breaks_and_certifies_nothing(run: Run, model: Path) -> None:
    result = run("attack", model, "--samples", 30, "--eps", 0.5, "--steps", 20, "--json", "-")
    assert result.code == 0
    summary = json.loads(result.out)
    assert [stage["name"] for stage in summary["stages"]] == ["clean", "attack", "targeted"]
    assert summary["certified_accuracy"] is None
    assert 0 < summary["attacked_accuracy"] < summary["clean_accuracy"]


def test_more_restarts_never_break_less(run: Run, model: Path) -> None:
    broken = []
    for restarts in (1, 3):
        asked = ("attack", model, "--samples", 30, "--eps", 0.4, "--steps", 5, "--restarts", restarts)
        broken.append(json.loads(run(*asked, "--json", "-").out)["attacked_accuracy"])
    assert broken[1] <= broken[0]


def test_attack_report_speaks_of_the_attack(run: Run, model: Path) -> None:
    printed = run("attack", model, "--samples", 10).out
    assert "broken by PGD" in printed
    assert "Assurance" not in printed
