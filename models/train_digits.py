"""Trains and exports the committed networks of this folder: `python models/train_digits.py [NAME ...]`.

Two are trained for accuracy alone, two against the global Lipschitz bound (GloRo, Leino et al. 2021) with the
sparsity loss of the paper (eq. 12). Everything follows from the seed; one core, about four minutes for all four.
"""

import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llcert.data import load_dataset
from llcert_train.zoo import ClippedMaxMin, ClippedReLU, Residual, build

EPS = 0.5
OPSET = 18


@dataclass(frozen=True)
class Recipe:
    """How one network is trained. Rates are Adam's; images are in [0, 1]."""

    arch: str
    activation: str
    epochs: int
    batch: int
    rate: float
    robust: bool = False  # against worst logits at EPS, else plain cross-entropy
    clean_weight: float = 0.0  # kappa
    temperature: float = 1.0  # divides the logits of a robust network, whose Lipschitz constant is near 1 per layer
    sparsity: float = 0.0  # weight of eq. 12
    threshold: float = 2.0  # where theta, t_max and -t_min start
    seed: int = 0


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "digits_relu": Recipe("small-conv", "relu", epochs=40, batch=32, rate=1e-2),
        "digits_residual_bn": Recipe("residual-bn", "relu", epochs=20, batch=64, rate=3e-3),
        "digits_relu_theta": Recipe("mlp", "relu-theta", 250, 32, 5e-3, robust=True, temperature=0.1, threshold=1.0),
        "digits_maxmin_clipped": Recipe(
            "mlp",
            "maxmin-clipped",
            300,
            128,
            2e-3,
            robust=True,
            clean_weight=0.2,
            temperature=0.3,
            sparsity=0.3,
            threshold=0.5,
        ),
    }
)


def digits(split: str) -> tuple[Tensor, Tensor]:
    """All images `[n, 1, 8, 8]` and labels `[n]` of a split."""
    data = load_dataset("digits", split=split)
    (batch,) = data.batches(range(len(data)), len(data))
    return batch.images, batch.labels


def train(recipe: Recipe) -> nn.Sequential:
    """The trained network, in evaluation mode."""
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(1)
    images, labels = digits("train")
    net = build(
        recipe.arch, input_shape=images.shape[1:], classes=10, activation=recipe.activation, threshold=recipe.threshold
    )
    steps = recipe.epochs * (len(images) // recipe.batch)
    optimiser = torch.optim.Adam(net.parameters(), recipe.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=steps, pct_start=0.1)
    loss = RobustLoss(net, recipe) if recipe.robust else None
    order = torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if len(order) < recipe.batch:
            order = torch.randperm(len(images))
        chosen, order = order[: recipe.batch], order[recipe.batch :]
        x, y = images[chosen], labels[chosen]
        # eps grows over the first 40 % of the steps, as in the paper's recipe
        value = F.cross_entropy(net(x), y) if loss is None else loss(x, y, min(1.0, step / (0.4 * steps)))
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        for module in net.modules():
            if isinstance(module, ClippedReLU):
                module.project()
    return net.eval()


class RobustLoss:
    """Cross-entropy of the worst logits that the global bound allows, plus eq. 12; for dense networks."""

    def __init__(self, net: nn.Sequential, recipe: Recipe) -> None:
        self.net = net
        self.recipe = recipe
        dense = [layer for layer in net if isinstance(layer, nn.Linear)]
        for layer in dense:
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
        # right singular vectors, carried from step to step: two power iterations each are then enough
        self.vectors = {layer: F.normalize(torch.randn(layer.in_features), dim=0) for layer in dense}

    def norm(self, layer: nn.Linear) -> Tensor:
        """Spectral norm (an estimate, from below), with its gradient."""
        v = self.vectors[layer]
        with torch.no_grad():
            for _ in range(2):
                v = F.normalize(layer.weight.T @ (layer.weight @ v), dim=0)
        self.vectors[layer] = v
        norm: Tensor = torch.linalg.vector_norm(layer.weight @ v)
        return norm

    def __call__(self, x: Tensor, y: Tensor, ramp: float) -> Tensor:
        radius = torch.tensor(ramp * EPS)
        sparsity = torch.zeros(())
        head = self.net[-1]
        assert isinstance(head, nn.Linear)
        h = x
        for layer, activation in pairwise(self.net):
            h = layer(h)
            if isinstance(layer, nn.Linear):
                reach = radius * layer.weight.norm(dim=1)
                sparsity = sparsity + distance_from_constant(activation, h - reach, h + reach)
                radius = radius * self.norm(layer)
        logits = head(h)
        worst = worst_logits(logits, y, head.weight, radius)
        robust = F.cross_entropy(worst / self.recipe.temperature, y)
        clean = F.cross_entropy(logits / self.recipe.temperature, y)
        kappa = self.recipe.clean_weight
        return kappa * clean + (1 - kappa) * robust + ramp * self.recipe.sparsity * sparsity


def distance_from_constant(activation: nn.Module, lower: Tensor, upper: Tensor) -> Tensor:
    """Mean over batch and neurons of eq. 12, for pre-activations within `lower` and `upper`, `[batch, n]`."""
    if isinstance(activation, ClippedReLU):
        return (F.relu(upper) + F.relu(activation.theta - lower)).mean()
    if isinstance(activation, ClippedMaxMin):
        larger = torch.maximum(*lower.chunk(2, dim=1))
        smaller = torch.minimum(*upper.chunk(2, dim=1))
        return (F.relu(smaller - activation.t_min) + F.relu(activation.t_max - larger)).mean()
    raise TypeError(f"no sparsity loss for {type(activation).__name__}")


def worst_logits(logits: Tensor, y: Tensor, head: Tensor, radius: Tensor) -> Tensor:
    """Logits `[batch, classes]`, each wrong one raised by all it can gain on the right one within `radius`."""
    gain: Tensor = radius * torch.linalg.vector_norm(head - head[y].unsqueeze(1), dim=2)
    return logits + gain


def lipschitz(net: nn.Module, shape: Sequence[int]) -> float:
    """Global Lipschitz bound (up to rounding in float64) of a network on `[*shape]`: runs of linear layers are
    multiplied out and their norms are exact; a residual sum adds those of its branches."""
    bound, run = 1.0, nn.Sequential()
    probe = torch.zeros(1, *shape, dtype=torch.float64)
    for module in net.children():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.Flatten):
            run.append(module)
            continue
        bound, probe, run = bound * matrix_norm(run, probe), run(probe), nn.Sequential()
        if isinstance(module, Residual):
            bound *= lipschitz(module.body, probe.shape[1:]) + lipschitz(module.skip, probe.shape[1:])
        probe = module(probe)
    return bound * matrix_norm(run, probe)


def matrix_norm(run: nn.Sequential, probe: Tensor) -> float:
    """Spectral norm of an affine map, from its values on the unit vectors; 1 for no layers."""
    units = torch.eye(math.prod(probe.shape), dtype=probe.dtype).reshape(-1, *probe.shape[1:])
    matrix = (run(units) - run(torch.zeros_like(units[:1]))).flatten(1)
    return float(torch.linalg.matrix_norm(matrix, 2))


@torch.no_grad()
def certified(net: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    """Which images the global bound certifies at EPS, `[batch]`. An estimate: no rounding error is paid for."""
    body, head = net[:-1].double(), net[-1].double()
    assert isinstance(head, nn.Linear)
    radius = torch.tensor(EPS * lipschitz(body, x.shape[1:]))
    worst = worst_logits(head(body(x.double())), y, head.weight, radius)
    net.float()
    right = worst.gather(1, y.unsqueeze(1))
    return (right > worst.scatter(1, y.unsqueeze(1), -math.inf)).all(dim=1)


def unbroken(net: nn.Module, x: Tensor, y: Tensor, restarts: int = 5) -> Tensor:
    """Which images stay right under L2 PGD at EPS: 100 steps of EPS/4, random starts, within [0, 1]; `[batch]`."""
    safe: Tensor = net(x).argmax(dim=1) == y
    generator = torch.Generator().manual_seed(0)
    for _ in range(restarts):
        delta = limit(torch.randn(x.shape, generator=generator) * EPS / 8, x)
        for _ in range(100):
            delta.requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(net(x + delta), y, reduction="sum"), delta)
            step = EPS / 4 * F.normalize(slope.flatten(1), dim=1).view_as(x)
            delta = limit(delta.detach() + step, x)
            safe &= net(x + delta).argmax(dim=1) == y
    return safe


def limit(delta: Tensor, x: Tensor) -> Tensor:
    """The perturbation shrunk to length EPS, then cut so that pixels stay in [0, 1] (which shortens it further)."""
    length = delta.flatten(1).norm(dim=1).clamp(min=EPS).view(-1, 1, 1, 1)
    cut: Tensor = (x + delta * EPS / length).clamp(0, 1) - x
    return cut


def export(net: nn.Module, path: Path, shape: Sequence[int]) -> None:
    """Writes one self-contained ONNX file with a free batch size and the llcert metadata."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.onnx"
        torch.onnx.export(
            net,
            (torch.zeros(2, *shape),),
            raw,
            input_names=["image"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            # the optimiser would fold BatchNormalization away, which we want to see in the file
            optimize=not any(isinstance(module, nn.BatchNorm2d) for module in net.modules()),
            verbose=False,
        )
        model = onnx.load(raw)
    # the exporter notes source files and lines of the exporting machine on every node and value
    model.ClearField("functions")
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, model.graph):
        item.ClearField("metadata_props")
    model.ClearField("metadata_props")
    onnx.helper.set_model_props(model, {"llcert.data": "digits", "llcert.eps": str(EPS)})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def main(names: Sequence[str]) -> None:
    """Trains the named networks, writes the files beside this script and prints what the cards quote."""
    unknown = set(names) - set(RECIPES)
    if unknown:
        sys.exit(f"no recipe for {', '.join(sorted(unknown))}; choose from {', '.join(RECIPES)}")
    x, y = digits("test")
    for name in names or RECIPES:
        net = train(RECIPES[name])
        export(net, Path(__file__).with_name(f"{name}.onnx"), x.shape[1:])
        correct = net(x).argmax(dim=1) == y
        shares = [100 * float(good.float().mean()) for good in (correct, unbroken(net, x, y), certified(net, x, y))]
        print(f"{name}: clean {shares[0]:.2f} %, PGD {shares[1]:.2f} %, certified (global) {shares[2]:.2f} % at {EPS}")


if __name__ == "__main__":
    main(sys.argv[1:])
