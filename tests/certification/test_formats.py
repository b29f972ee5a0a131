"""Certificates of networks whose values have different number formats, against their evaluation in those."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from mixed import in_own_formats, mixed
from onnx_text import imported, written
from onnx_text import onnx_model as model_of
from proofs import points_of, prover
from random_graphs import random_image, random_network
from torch import Tensor

import llcert
from llcert.bounds import RowWeighting
from llcert.certification import Verdict
from llcert.certification.proof.hint import ProofHint
from llcert.certification.settings import Semantics
from llcert.errors import UnsupportedModel
from llcert.ir import Input, Network, apply
from llcert.ops import Clamp, Linear

HINTS = (
    ProofHint(local=True, backward=True),
    ProofHint(local=True),
    ProofHint(local=True, weighting=RowWeighting.SECANT, backward=True),
)


@pytest.mark.parametrize("seed", range(30))
def test_no_proved_margin_is_above_one_that_a_run_shows(seed: int) -> None:
    network = mixed(random_network(seed), seed)
    image, eps = random_image(network, seed).to(network.input.dtype), (0.0, 1e-5, 0.03, 0.3)[seed % 4]
    label = network(image.double()).argmax(1)
    points = points_of(image, eps * (1 - 1e-6), 30, seed).to(network.input.dtype)
    away = torch.linalg.vector_norm((points.double() - image.double()).flatten(1), dim=1)
    points = torch.cat([image, points[away <= eps]])
    others = torch.arange(network.classes) != int(label)
    for hint in HINTS:
        margins = prover(network)(image, label, hint, eps)[0]
        for order in range(4):
            logits = in_own_formats(network, points, 4 * seed + order, flush=order == 3)[network.output].double()
            observed = (logits[:, label] - logits).amin(0)
            assert bool(((margins <= observed) | (margins == -torch.inf))[others].all()), hint


BODIES = {
    "cast to double behind float32": (
        "float[N,1] x",
        "a = Gemm(x, i, c) b = Gemm(a, i, d) e = Cast<to=11>(b) z = Gemm(e, w, t) y = Cast<to=1>(z)",
    ),
    "the last cast": ("float[N,1] x", "e = Cast<to=11>(x) z = Gemm(e, w, t) y = Cast<to=1>(z)"),
    "a double image, rounded": (
        "double[N,1] x",
        "e = Cast<to=1>(x) f = Cast<to=11>(e) z = Gemm(f, w, t) y = Cast<to=1>(z)",
    ),
}


@pytest.mark.parametrize("gap", [1e-9, 1e-6, 1e-4])
@pytest.mark.parametrize("name", BODIES)
def test_an_image_that_the_file_answers_otherwise_is_not_certified(name: str, gap: float, tmp_path: Path) -> None:
    """Logits `x - t` and 0 with thresholds just below x: what rounding in the middle or at the end takes away."""
    image, body = BODIES[name]
    wide, kind = image.startswith("double"), np.float64 if image.startswith("double") else np.float32
    constants = {"i": torch.ones(1, 1), "c": torch.tensor([1000.0]), "d": torch.tensor([-1000.0])}
    constants["w"] = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    seen = {"certified": 0, "answered otherwise": 0}
    generator = torch.Generator().manual_seed(0)
    for x in torch.rand(12, generator=generator, dtype=torch.float64):
        value = x if wide else x.float().double()
        constants["t"] = torch.stack([1 - (value - gap), torch.ones((), dtype=torch.float64)])
        model = model_of(body, constants, image=image, outputs=("float[] y",))
        network = imported(tmp_path, body, constants, image=image, output="float[] y")
        point = np.array([[float(value)]], kind)
        (logits,) = onnxruntime.InferenceSession(written(tmp_path, model), providers=["CPUExecutionProvider"]).run(
            None, {"x": point}
        )
        report = llcert.certify(network, (value.reshape(1, 1), torch.tensor([0])), eps="1e-12", self_check=False)
        certified = report.samples[0].verdict is Verdict.CERTIFIED
        wrong = not logits[0, 0] > logits[0, 1]
        assert not (certified and wrong)
        seen["certified"] += certified
        seen["answered otherwise"] += bool(wrong)
    if gap == 1e-4 and name != "cast to double behind float32":
        assert seen["certified"] == 12
    if gap == 1e-9:
        assert seen["answered otherwise"] > 0


def test_what_the_format_of_a_value_cannot_hold_proves_nothing_of_a_run() -> None:
    threshold = Clamp(torch.tensor(0.0), torch.tensor(0.1, dtype=torch.float64))
    network = Network(apply(Linear(torch.eye(2)), apply(threshold, apply(Input((2,))), name="clip")))
    with pytest.raises(UnsupportedModel, match=r"ReLU-theta clip: its high is no float32 number.*--semantics real"):
        prover(network)
    image: Tensor = torch.tensor([[0.05, 0.0]])
    assert prover(network, Semantics.REAL)(image, torch.tensor([0]), HINTS[0], 0.01)[0, 1] > 0
