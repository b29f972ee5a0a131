"""Leaves: copies that compute the same, shared where the source shares, followed by everything that reads them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from drawing import normal, normal32
from nodes import flattened
from torch import Tensor, nn

import llcert
from llcert.api import from_torch
from llcert.frontend.adapt import adapt
from llcert.ir import Input, Network, Op, apply, evaluate
from llcert.ops import Add, Affine, BatchNorm, Cast, Clamp, Conv, Linear, MaxMin, Transpose, relu
from llcert.program import lower
from llcert_train.rewrites import clipped
from llcert_train.weights import Weights
from llcert_train.zoo import build

SHAPE = (2, 5, 5)


def pictures(count: int = 6, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def network(dtype: torch.dtype = torch.float32) -> Network:
    """Normalisation, then one of everything that is trained, then what is not: constants of activations."""
    image = apply(Input(SHAPE, dtype), name="image")
    node = apply(
        Affine(normal(2, 1, 1, dtype=dtype), normal(2, 1, 1, seed=1, dtype=dtype)), image, name="normalisation"
    )
    node = apply(Conv(normal(4, 2, 3, 3, seed=2, dtype=dtype), None, (2, 2), (1, 1)), node)
    norm = (normal(4, seed=s, dtype=dtype) for s in (3, 4, 5))
    node = apply(BatchNorm(*norm, normal(4, seed=6, dtype=dtype).square() + 0.1), node)
    theta = (normal(4, 3, 3, seed=7, dtype=dtype).abs() + 0.2).requires_grad_()
    node = apply(Clamp(torch.zeros((), dtype=dtype), theta), node)
    node = apply(Linear(normal(6, 36, seed=8, dtype=dtype) / 6, normal(6, seed=9, dtype=dtype)), flattened(node))
    high, low = (normal(3, seed=s, dtype=dtype).abs().requires_grad_() for s in (10, 11))
    node = apply(MaxMin(0, False, high, low), node)
    node = apply(Clamp(torch.tensor(-1.0, dtype=dtype), torch.tensor(6.0, dtype=dtype)), node)
    node = apply(Linear(normal(3, 6, seed=12, dtype=dtype)), node, name="logits")
    return Network(node, metadata={"eps": "0.5"}, notes=("a note",), source="here")


def logits(net: Network, images: Tensor) -> Tensor:
    with torch.no_grad():
        return net(images)


def shaken(weights: Weights) -> None:
    with torch.no_grad():
        for leaf in weights.leaves.values():
            leaf += torch.rand(leaf.shape, generator=torch.Generator().manual_seed(3)) + 0.1


def operator(net: Network, kind: type[Op], number: int = 0) -> Op:
    return [n.op for n in net.operators() if isinstance(n.op, kind)][number]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
class TestLeaves:
    def test_the_function_is_the_same_to_the_last_bit(self, dtype: torch.dtype) -> None:
        source = network(dtype)
        weights = Weights.of(source, "cpu")
        assert torch.equal(logits(weights.network, pictures(dtype=dtype)), logits(source, pictures(dtype=dtype)))
        assert all(leaf.dtype == dtype for leaf in weights.leaves.values())

    def test_they_are_copies(self, dtype: torch.dtype) -> None:
        source = network(dtype)
        before = logits(source, pictures(dtype=dtype))
        stored = {t.data_ptr() for n in source.operators() for t in n.op.tensors().values()}
        weights = Weights.of(source, "cpu")
        assert not stored & {leaf.data_ptr() for leaf in weights.leaves.values()}
        shaken(weights)
        weights.project()
        assert torch.equal(logits(source, pictures(dtype=dtype)), before)
        assert not torch.allclose(logits(weights.network, pictures(dtype=dtype)), before)

    def test_what_is_trained(self, dtype: torch.dtype) -> None:
        weights = Weights.of(network(dtype), "cpu")
        assert [name.split(".", 1)[1] for name in weights.leaves] == [
            "Conv.weight",
            "BatchNorm.weight",
            "BatchNorm.bias",
            "ReLU-theta.high",
            "Linear.weight",
            "Linear.bias",
            "clipped MaxMin.high",
            "clipped MaxMin.low",
            "Linear.weight",
        ]
        assert all(type(leaf) is nn.Parameter and leaf.requires_grad for leaf in weights.leaves.values())
        assert weights.moved == dict(weights.leaves)
        held = [t for n in weights.network.operators() for t in n.op.tensors().values() if t.requires_grad]
        assert {id(t) for t in held} == {id(leaf) for leaf in weights.leaves.values()}

    def test_every_leaf_gets_a_gradient(self, dtype: torch.dtype) -> None:
        weights = Weights.of(network(dtype), "cpu")
        evaluate(weights.network.output, pictures(count=50, dtype=dtype)).square().sum().backward()
        for name, leaf in weights.leaves.items():
            assert leaf.grad is not None, name
            assert leaf.grad.any(), name

    def test_normalisation_stays_as_it_is(self, dtype: torch.dtype) -> None:
        weights = Weights.of(network(dtype), "cpu")
        normalisation, given = operator(weights.network, Affine), operator(network(dtype), Affine)
        for name, tensor in normalisation.tensors().items():
            assert not tensor.requires_grad
            assert torch.equal(tensor, given.tensors()[name])

    def test_the_rest_of_the_network_stays(self, dtype: torch.dtype) -> None:
        source = network(dtype)
        found = Weights.of(source, "cpu").network
        assert [(n.op.label, n.name, n.shape) for n in found.operators()] == [
            (n.op.label, n.name, n.shape) for n in source.operators()
        ]
        same = ("input_name", "output_name", "metadata", "notes", "source")
        assert all(getattr(found, name) == getattr(source, name) for name in same)
        assert found.input.name == "image"


class TestInFront:
    def front(self, *ops: Op) -> list[str]:
        """The names of the leaves of a network with these operators in front of a dense layer."""
        node = apply(Input(SHAPE))
        for op in ops:
            node = apply(op, node)
        return list(Weights.of(Network(apply(Linear(normal32(3, 50)), flattened(node))), "cpu").leaves)

    def test_scaling_and_layout_are_given(self) -> None:
        scaling = Affine(normal32(2, 1, 1).requires_grad_(), normal32(2, 1, 1))
        batch_norm = BatchNorm(normal32(2), normal32(2), normal32(2), torch.ones(2))
        for ops in (
            (scaling,),
            (batch_norm,),
            (scaling, Transpose((1, 2, 0))),
            (Transpose((0, 2, 1)), scaling, scaling),
        ):
            assert [name.split(".", 1)[1] for name in self.front(*ops)] == ["Linear.weight"]

    def test_scaling_behind_a_layer_is_trained(self) -> None:
        found = self.front(Conv(normal32(2, 2, 1, 1)), Affine(normal32(2, 1, 1), normal32(2, 1, 1)))
        assert [name.split(".", 1)[1] for name in found] == [
            "Conv.weight",
            "Affine.scale",
            "Affine.shift",
            "Linear.weight",
        ]

    def test_a_branch_of_the_image_alone_is_given(self) -> None:
        image = apply(Input((3,)))
        inner = apply(Affine(scale=normal32(3)), apply(Linear(normal32(3, 3)), image))
        output = apply(Add(), inner, apply(Affine(scale=normal32(3)), image))
        assert len(Weights.of(Network(output), "cpu").leaves) == 2


class TestShared:
    def tied(self) -> tuple[Network, Tensor]:
        """One square matrix used twice, and one threshold behind each of them."""
        weight, theta = normal32(4, 4, seed=1), (normal32(4, seed=2).abs() + 0.1).requires_grad_()
        node = apply(Input((4,)))
        for bias in (normal32(4, seed=3), None):
            node = apply(Clamp(torch.zeros(()), theta), apply(Linear(weight, bias), node))
        return Network(apply(Linear(normal32(2, 4, seed=5)), node)), weight

    def test_tensors_that_nodes_share_stay_shared(self) -> None:
        source, _ = self.tied()
        weights = Weights.of(source, "cpu")
        assert len(weights.leaves) == 4
        first, second = (operator(weights.network, Linear, i) for i in (0, 1))
        assert first.weight is second.weight
        assert operator(weights.network, Clamp, 0).high is operator(weights.network, Clamp, 1).high

    def test_both_uses_have_a_gradient(self) -> None:
        source, weight = self.tied()
        weights, x = Weights.of(source, "cpu"), normal32(5, 4, seed=6)
        evaluate(weights.network.output, x).sum().backward()
        own = weight.clone().requires_grad_()
        ops = [n.op for n in source.operators()]
        hidden = ops[1](x @ own.T + ops[0].bias)
        (ops[4](ops[3](hidden @ own.T))).sum().backward()
        torch.testing.assert_close(operator(weights.network, Linear).weight.grad, own.grad)

    def test_a_shared_threshold_is_projected(self) -> None:
        weights = Weights.of(self.tied()[0], "cpu")
        (name,) = weights.floors
        with torch.no_grad():
            weights.leaves[name].fill_(-1.0)
        weights.project()
        assert not weights.leaves[name].any()

    def test_a_module_used_twice(self) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Tensor:
                y: Tensor = self.last(torch.relu(self.layer(torch.relu(self.layer(x)))))
                return y

        with warnings.catch_warnings():
            # torch.export copies its own deprecated tree types
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec")
            source = from_torch(Twice().eval(), torch.zeros(1, 4))
        weights = Weights.of(source, "cpu")
        assert len(weights.leaves) == 4
        shaken(weights)
        assert torch.equal(operator(weights.network, Linear, 0).weight, operator(weights.network, Linear, 1).weight)


class TestThresholds:
    def test_floors(self) -> None:
        weights = Weights.of(network(), "cpu")
        ((name, floor),) = weights.floors.items()
        assert name in weights.leaves
        assert name.endswith("ReLU-theta.high")
        assert not floor.any()

    def test_project_moves_only_what_fell_too_low(self) -> None:
        weights = Weights.of(network(), "cpu")
        (name,) = weights.floors
        before = {k: leaf.detach().clone() for k, leaf in weights.leaves.items()}
        weights.project()
        assert all(torch.equal(leaf, before[k]) for k, leaf in weights.leaves.items())
        with torch.no_grad():
            for leaf in weights.leaves.values():
                leaf -= 1.0
        weights.project()
        for k, leaf in weights.leaves.items():
            moved = before[k] - 1.0
            assert torch.equal(leaf, moved.clamp(min=0.0) if k == name else moved)
            assert leaf.requires_grad
            assert leaf.is_leaf

    def test_thresholds_without_a_gradient_stay(self) -> None:
        six = Clamp(torch.zeros(()), torch.tensor(6.0))
        output = apply(Linear(normal32(2, 3)), apply(six, apply(Linear(normal32(3, 3)), apply(Input((3,))))))
        weights = Weights.of(Network(output), "cpu")
        assert len(weights.leaves) == 2
        assert not weights.floors
        assert not operator(weights.network, Clamp).high.requires_grad

    @pytest.mark.parametrize(
        ("low", "high", "expected"),
        [
            ((), (2, 3), torch.zeros(2, 3)),
            ((2, 3), (2, 3), torch.arange(6.0).reshape(2, 3)),
            ((2, 3), (2, 1), torch.tensor([[2.0], [5.0]])),
            ((2, 3), (1, 3), torch.tensor([[3.0, 4.0, 5.0]])),
            ((2, 3), (3,), torch.tensor([3.0, 4.0, 5.0])),
            ((2, 3), (), torch.tensor(5.0)),
            ((3,), (2, 1), torch.tensor([[2.0], [2.0]])),
            ((1,), (2, 3), torch.zeros(2, 3)),
        ],
    )
    def test_floors_fit_thresholds_of_any_shape(
        self, low: tuple[int, ...], high: tuple[int, ...], expected: Tensor
    ) -> None:
        """Never below the lower bound of any neuron it holds for."""
        below = torch.arange(float(torch.Size(low).numel())).reshape(low)
        op = Clamp(below, torch.full(high, 7.0).requires_grad_())
        output = apply(Linear(normal32(2, 3)), apply(op, apply(Linear(normal32(3, 3)), apply(Input((2, 3))))))
        weights = Weights.of(Network(flattened(output)), "cpu")
        (name,) = weights.floors
        with torch.no_grad():
            weights.leaves[name].fill_(-9.0)
        weights.project()
        assert torch.equal(weights.leaves[name].detach(), expected)

    def test_a_relu_by_a_tensor_of_zeros_with_one_threshold_a_channel(self) -> None:
        image = apply(Input((1, 4, 4)))
        hidden = apply(Clamp(torch.zeros(2, 4, 4)), apply(Conv(normal32(2, 1, 3, 3), None, (1, 1), (1, 1)), image))
        net = Network(apply(Linear(normal32(3, 32)), flattened(hidden)))
        images = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        weights = Weights.of(clipped(net, [images], quantile=1.0, per_channel=True), "cpu")
        weights.project()
        assert torch.equal(logits(weights.network, images), logits(net, images))


def orthogonal(dtype: torch.dtype = torch.float64) -> tuple[Weights, Network]:
    """A convolution with padding, one with a stride, a wide dense layer and a last layer, which stays free."""
    image = apply(Input((2, 4, 4), dtype))
    padded = Conv(normal(3, 2, 3, 3, dtype=dtype), normal(3, dtype=dtype), (1, 1), (1, 1))
    node = apply(relu(), apply(padded, image))
    node = apply(relu(), apply(Conv(normal(4, 3, 2, 2, dtype=dtype), None, (2, 2)), node))
    node = apply(relu(), apply(Linear(normal(5, 16, dtype=dtype), normal(5, dtype=dtype)), flattened(node)))
    source = Network(apply(Linear(normal(3, 5, seed=9, dtype=dtype), normal(3, dtype=dtype)), node))
    return Weights.of(source, "cpu").orthogonal(seed=4), source


class TestComputed:
    def test_all_weights_but_the_last_follow(self) -> None:
        weights, source = orthogonal()
        assert list(weights.computed) == ["1.Conv.weight", "3.Conv.weight", "6.Linear.weight"]
        assert list(weights.moved) == [
            "1.Conv.bias",
            "6.Linear.bias",
            "8.Linear.weight",
            "8.Linear.bias",
            "1.Conv.weight.matrix",
            "1.Conv.weight.projectors",
            "3.Conv.weight.matrix",
            "6.Linear.weight.matrix",
        ]
        last = operator(weights.network, Linear, 1)
        assert torch.equal(last.weight, operator(source, Linear, 1).weight)

    def test_they_have_norm_at_most_one(self) -> None:
        weights, _ = orthogonal()
        norms = []
        for block in lower(weights.network, dtype=torch.float64).blocks[:-1]:
            (term,) = block.terms
            size = torch.Size(term.columns).numel()
            unit = torch.eye(size, dtype=torch.float64).reshape(size, *term.columns)
            norms.append(float(torch.linalg.matrix_norm(term.apply(unit).flatten(1).detach(), 2)))
        assert norms[0] <= 1 + 1e-6
        assert norms[1:] == pytest.approx([1.0, 1.0])

    def test_the_seed_decides(self) -> None:
        (first, source), (second, _) = orthogonal(), orthogonal()
        third = Weights.of(source, "cpu").orthogonal(seed=5)
        name = "1.Conv.weight"
        assert torch.equal(first.leaves[name], second.leaves[name])
        assert not torch.equal(first.leaves[name], third.leaves[name])

    def test_refresh_follows_the_raw_parameters(self) -> None:
        weights, _ = orthogonal()
        before = {name: leaf.detach().clone() for name, leaf in weights.leaves.items()}
        with torch.no_grad():
            for computed in weights.computed.values():
                for raw in computed.raw.values():
                    raw += 0.3
        assert all(torch.equal(leaf, before[name]) for name, leaf in weights.leaves.items())
        weights.refresh()
        for name, leaf in weights.leaves.items():
            assert torch.equal(leaf, before[name]) == (name not in weights.computed)
            if name in weights.computed:
                torch.testing.assert_close(leaf.detach(), weights.computed[name].value().detach())
            assert leaf.is_leaf

    def test_pulled_back_gradients_are_those_of_the_raw_parameters(self) -> None:
        """Against central differences of the loss as a function of each raw entry, the leaves computed anew."""
        weights, _ = orthogonal()
        x = normal(6, 2, 4, 4, seed=7, dtype=torch.float64)

        def loss() -> Tensor:
            return evaluate(weights.network.output, x).square().sum()

        def moved(raw: nn.Parameter, i: int, step: float) -> float:
            with torch.no_grad():
                raw.view(-1)[i] += step
                weights.refresh()
                value = float(loss())
                raw.view(-1)[i] -= step
            return value

        loss().backward()
        assert all(raw.grad is None for c in weights.computed.values() for raw in c.raw.values())
        weights.pull_back()
        for computed in weights.computed.values():
            for raw in computed.raw.values():
                entries = [(moved(raw, i, 1e-6) - moved(raw, i, -1e-6)) / 2e-6 for i in range(raw.numel())]
                expected = torch.tensor(entries, dtype=torch.float64).reshape(raw.shape)
                torch.testing.assert_close(raw.grad, expected, atol=1e-6, rtol=1e-5)

    def test_pull_back_without_gradients_does_nothing(self) -> None:
        weights, _ = orthogonal()
        weights.pull_back()
        assert all(p.grad is None for p in weights.moved.values())

    def test_pull_back_works_without_grad_mode(self) -> None:
        weights, _ = orthogonal()
        evaluate(weights.network.output, normal(2, 2, 4, 4, dtype=torch.float64)).sum().backward()
        with torch.no_grad():
            weights.pull_back()
        assert all(p.grad is not None and p.grad.any() for p in weights.moved.values())

    def test_a_step_keeps_them_orthogonal(self) -> None:
        weights, _ = orthogonal()
        optimiser = torch.optim.Adam(weights.moved.values(), 0.1)
        for _ in range(3):
            evaluate(weights.network.output, normal(4, 2, 4, 4, dtype=torch.float64)).square().sum().backward()
            weights.pull_back()
            optimiser.step()
            weights.refresh()
            weights.network.output.op.weight.grad = None
        weight = operator(weights.network, Linear).weight.detach()
        torch.testing.assert_close(weight @ weight.T, torch.eye(5, dtype=torch.float64))


Reader = Callable[[Weights], Callable[[Tensor], Tensor]]


def _adapted(weights: Weights) -> Callable[[Tensor], Tensor]:
    adapted, _ = adapt(weights.network, SHAPE, mean=(0.5, 0.25), std=(0.5, 0.2))
    return lambda x: logits(adapted, x)


def _program(weights: Weights) -> Callable[[Tensor], Tensor]:
    program = lower(adapt(weights.network, SHAPE, mean=(0.5,))[0])
    return lambda x: program.logits(x).detach()


class TestReaders:
    def test_an_adapted_network_and_its_program_hold_the_leaves(self) -> None:
        weights = Weights.of(network(), "cpu")
        leaves = {id(leaf) for leaf in weights.leaves.values()}
        adapted, _ = adapt(weights.network, SHAPE, mean=(0.5, 0.25), std=(0.5, 0.2))
        assert {id(t) for n in adapted.operators() for t in n.op.tensors().values() if t.requires_grad} == leaves
        program = lower(adapted)
        ops = [n.op for b in program.blocks for n in b.body] + [b.activation for b in program.blocks if b.activation]
        assert {id(t) for op in ops for t in op.tensors().values() if t.requires_grad} == leaves

    @pytest.mark.parametrize("reader", [_adapted, _program])
    def test_they_follow_changes_in_place(self, reader: Reader) -> None:
        weights = Weights.of(network(), "cpu")
        read = reader(weights)
        before = read(pictures())
        shaken(weights)
        after = read(pictures())
        assert not torch.allclose(after, before)
        assert torch.equal(after, reader(weights)(pictures()))

    def test_a_file_written_later_holds_the_change(self, tmp_path: Path) -> None:
        weights = Weights.of(network(), "cpu")
        llcert.save(weights.network, tmp_path / "before.onnx")
        before = logits(weights.network, pictures())
        shaken(weights)
        llcert.save(weights.network, tmp_path / "after.onnx")
        for name, expected in (("before", before), ("after", logits(weights.network, pictures()))):
            found = logits(llcert.load(tmp_path / f"{name}.onnx"), pictures())
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(expected, before, atol=1e-2)


class TestTypes:
    def test_the_widest_type_rules(self) -> None:
        node = apply(Linear(normal(3, 4, dtype=torch.float32)), apply(Input((4,))))
        wide = apply(Cast(torch.float64), apply(relu(), node))
        narrow = Network(apply(Linear(normal(2, 3, dtype=torch.float64), None), wide))
        weights = Weights.of(narrow, "cpu")
        assert {leaf.dtype for leaf in weights.leaves.values()} == {torch.float64}
        assert weights.network.dtype == torch.float64
        x = normal(3, 4, dtype=torch.float64)
        assert torch.equal(logits(weights.network, x), logits(narrow, x))

    def test_transposed_weights_become_contiguous(self) -> None:
        source = Network(apply(Linear(normal32(4, 3).T), apply(Input((4,)))))
        weights = Weights.of(source, "cpu")
        assert all(leaf.is_contiguous() for leaf in weights.leaves.values())
        torch.testing.assert_close(logits(weights.network, normal32(5, 4)), logits(source, normal32(5, 4)))

    def test_whole_numbers_are_no_weights(self) -> None:
        weights = Weights.of(
            Network(apply(Affine(scale=torch.tensor(2)), apply(Linear(normal32(2, 3)), apply(Input((3,)))))), "cpu"
        )
        assert len(weights.leaves) == 1

    @pytest.mark.parametrize("kind", ["relu-theta", "maxmin-clipped"])
    def test_thresholds_of_new_networks_are_trained(self, kind: str) -> None:
        module = build("mlp", input_shape=(4,), classes=3, activation=kind)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec")
            source = from_torch(module, torch.zeros(1, 4))
        weights = Weights.of(source, "cpu")
        assert len(weights.leaves) == sum(1 for _ in module.parameters())
        assert len(weights.floors) == (2 if kind == "relu-theta" else 0), "one of each hidden layer"
        assert dataclasses.replace(weights, computed={}).moved.keys() == weights.leaves.keys()
