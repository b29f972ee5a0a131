"""`--proof` of other claims and of radii of images: written, checked, gone on with, and never taken for more."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from certificates import certificate_json, evidence
from random_graphs import random_image, random_network

from llcert.certificate_writer import open_folder
from llcert.certification import Never, Radii, Settings, Specification, Top
from llcert.checker import InvalidCertificate, check
from llcert.cli import main
from llcert.errors import InvalidInput, UnsupportedModel
from llcert.ir import Network, apply
from llcert.ops import relu

MODEL = Path(__file__).parents[2] / "models" / "digits_relu_theta.onnx"
COUNT = 20


@pytest.fixture
def radii(tmp_path: Path) -> Path:
    path = tmp_path / "radii.txt"
    path.write_text("\n".join(f"{40 + 5 * i}/255" for i in range(COUNT)))
    return path


def certify(proof: Path, *more: object) -> int:
    return main([str(a) for a in ("certify", MODEL, "--samples", COUNT, "--proof", proof, "--no-self-check", *more)])


def changed(folder: Path, **values: object) -> None:
    (folder / "certificate.json").write_text(json.dumps(certificate_json(folder) | values))


def accepted(folder: Path) -> list[bool]:
    return [r.accepted for r in check(folder)]


@pytest.mark.parametrize("specification", [("--target", 8), ("--top", 2), ("--top", 5)])
def test_what_is_certified_is_there_and_accepted(specification: tuple[str, int], radii: Path, tmp_path: Path) -> None:
    proof, out = tmp_path / "proof", tmp_path / "out"
    assert certify(proof, *specification, "--eps-file", radii, "--out", out) == 0
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    content = certificate_json(proof)
    assert content["claim"] == {"never" if specification[0] == "--target" else "top": specification[1]}
    assert content["eps"] is None
    known = {entry["index"]: entry for entry in content["images"]}
    certified = [s for s in samples if s["verdict"] == "certified"]
    assert [*known] == [s["index"] for s in certified]
    assert len(certified) > 8
    for sample in certified:
        entry = known[sample["index"]]
        assert entry["eps"] == f"{40 + 5 * sample['index']}/255"
        assert sample["eps"] == float(Fraction(entry["eps"]))
        role = "reference" if specification[0] == "--target" else "label"
        assert entry[role] == sample["prediction" if role == "reference" else "label"]
    assert all(accepted(proof))
    larger = [entry | {"eps": str(Fraction(entry["eps"]) * 3)} for entry in content["images"]]
    changed(proof, images=larger)
    assert not all(accepted(proof))


def test_evidence_of_one_claim_is_none_of_another(tmp_path: Path) -> None:
    never, top = tmp_path / "never", tmp_path / "top"
    assert certify(never, "--target", 8) == 0
    changed(never, claim={"never": 3})
    assert not any(accepted(never))
    first = [
        {"label" if k == "reference" else k: v for k, v in entry.items()} for entry in certificate_json(never)["images"]
    ]
    changed(never, claim={"top": 1}, images=first)
    assert not any(accepted(never))
    assert certify(top, "--top", 4, "--eps", "3/4") == 0
    assert all(accepted(top))
    changed(top, claim={"top": 1})
    assert not all(accepted(top)), "at this radius some images stay in the top 4 only"


def test_a_certificate_of_another_claim_is_not_gone_on_with(
    radii: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proof = tmp_path / "proof"
    assert certify(proof, "--target", 8, "--eps-file", radii, "--out", tmp_path / "out") == 0
    assert certify(proof, "--target", 8, "--eps-file", radii, "--out", tmp_path / "again", "--resume") == 0
    assert all(accepted(proof))
    for number, (more, words) in enumerate(
        (
            (("--target", 3, "--eps-file", radii), "holds another claim"),
            (("--eps-file", radii), "holds another claim"),
            (("--target", 8), "holds another eps"),
        )
    ):
        capsys.readouterr()
        assert certify(proof, *more, "--out", tmp_path / str(number), "--resume") == 2
        assert words in capsys.readouterr().err
    radii.write_text(radii.read_text().replace("/255", "/256"))
    assert certify(proof, "--target", 8, "--eps-file", radii, "--out", tmp_path / "other", "--resume") == 2
    assert "holds other radii" in capsys.readouterr().err


def test_numbers_too_long_for_a_certificate_are_told_at_once(
    radii: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    radii.write_text("\n".join(["0.1"] * (COUNT - 1) + ["1e-300"]))
    assert certify(tmp_path / "proof", "--eps-file", radii) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'1e-300' is too long a number" in line


def test_what_is_proved_of_a_range_of_pixels_is_taken_for_no_more(tmp_path: Path) -> None:
    """Some images need the range: their evidence is none of the whole ball, nor of a wider range."""
    proof, whole = tmp_path / "proof", tmp_path / "whole"
    asked = ("--eps", "0.5", "--stages", "global,local,attack,dual")
    assert certify(proof, *asked, "--clip-input") == 0
    assert certify(whole, *asked) == 0
    content = certificate_json(proof)
    assert content["claim"] == {"top": 1, "within": ["0", "1"]}
    held = accepted(proof)
    assert all(held)
    assert len(held) >= len(accepted(whole)) > 5
    for claim in ({"top": 1}, {"top": 1, "within": ["-1", "2"]}, {"top": 1, "within": ["0", "0.99"]}):
        changed(proof, claim=claim)
        assert not all(accepted(proof)), claim
    for claim in ({"top": 1, "within": ["-0.0", "1.0"]}, {"top": 2, "within": ["0/1", "1e0"]}):
        changed(proof, claim=claim)
        assert all(accepted(proof)), claim


@pytest.mark.parametrize(
    "within", [None, [], ["0"], ["0", "1", "2"], ["1", "0"], ["0", "0"], [0, 1], ["0", "inf"], "01"]
)
def test_ranges_that_are_none_are_refused(within: object, tmp_path: Path) -> None:
    content = {"format": 1, "eps": "0.1", "semantics": "real", "files": {}, "images": []}
    (tmp_path / "certificate.json").write_text(json.dumps(content | {"claim": {"top": 1, "within": within}}))
    with pytest.raises(InvalidCertificate, match=r"claim: within: not the lower and the upper end of a range"):
        accepted(tmp_path)


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("specification", [Top(2), Never(0)], ids=str)
def test_random_graphs(specification: Specification, clipped: bool, tmp_path: Path) -> None:
    """Also of networks that end in a ReLU, whose logits have to exceed its zero."""
    written = 0
    for seed in range(14):
        net, image = random_network(seed), random_image(random_network(seed), seed)
        net = Network(apply(relu(), net.output)) if clipped else net
        if net.classes < 3:
            continue
        images = image + 0.1 * torch.randn(3, *image.shape[1:], generator=torch.Generator().manual_seed(seed))
        images = images.to(net.dtype)
        radii = Radii((0.001, 0.01, 0.1), ("1/1000", "0.01", "1e-1"))
        settings = Settings(radii, stages=("global", "local", "crown-ball"), specification=specification)
        try:
            graph, found = evidence(net, settings, images, net(images).argmax(1))
        except UnsupportedModel:
            continue
        folder = open_folder(tmp_path / str(seed), resume=False, overwrite=False)
        folder.begin(graph, eps=radii, semantics="real", about={}, specification=specification)
        for index, one in sorted(found.items()):
            folder.add(index, one)
        folder.commit()
        results = [*check(tmp_path / str(seed))]
        assert [r.reason for r in results if not r.accepted] == []
        written += len(results)
    assert written > 8


def test_a_radius_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="image 3 has no radius"):
        Radii((0.1,)).place(3)
