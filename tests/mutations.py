"""Broken and hostile variants of small valid ONNX files, by seed."""

from __future__ import annotations

import random
from collections.abc import Callable

import onnx
import torch
from drawing import ints
from onnx import AttributeProto, numpy_helper
from onnx_text import noise, onnx_model

INTEGERS = (-(2**63), -(2**31), -1000, -2, -1, 0, 1, 2, 3, 5, 17, 1000, 7919, 2**16, 2**31 - 1, 2**31, 2**40, 2**63 - 1)
FLOATS = (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e-45, 1e38, 0.5)
KINDS = (
    *("Relu", "Conv", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "Concat", "Reshape", "Split", "Loop", "If"),
    *("Identity", "Max", "Transpose", "TopK", "Softmax", "MaxPool", "AveragePool", "Expand", "Tile", "", "Nothing"),
    *("ConvTranspose", "Flatten", "Squeeze", "Slice", "Pad", "Clip", "ConstantOfShape", "BatchNormalization"),
)


def seeds() -> list[onnx.ModelProto]:
    """Small valid models that together use most operators."""
    convolutional = onnx_model(
        'c = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w, b) n = BatchNormalization(c, g, g, g, v) r = Relu(n) '
        "m = Min(r, t) p = MaxPool<kernel_shape=[2,2], strides=[1,1], pads=[0,1,1,0]>(m) "
        "a = AveragePool<kernel_shape=[2,2], pads=[1,1,0,0]>(p) s = Shape(a) i = Gather(s, z) u = Unsqueeze(i, o) "
        "k = Concat<axis=0>(u, e) f = Reshape(a, k) y = Gemm<transB=1, alpha=0.5>(f, d, q)",
        {
            "w": noise(4, 3, 3, 3),
            "b": noise(4),
            "g": noise(4),
            "v": noise(4).abs() + 0.1,
            "t": noise(4, 1, 1).abs(),
            "z": torch.tensor(0),
            "o": ints(0),
            "e": ints(-1),
            "d": noise(3, 64),
            "q": noise(3),
        },
    )
    sorting = onnx_model(
        "h = MatMul(x, w) n = Add(h, b) l, r = Split<axis=1>(n) p = Max(l, r) q = Min(l, r) "
        "m = Concat<axis=1>(p, q) s = Reshape(m, k) j, i = TopK<axis=2>(s, c) f = Flatten(j) "
        "t = Transpose<perm=[1,0]>(v) y = MatMul(f, t)",
        {"w": noise(12, 8), "b": noise(8), "k": ints(0, 4, 2), "c": ints(2), "v": noise(3, 8)},
        image="float[N,12] x",
        opset=13,
    )
    moving = onnx_model(
        "a = Pad(x, p) b = Transpose<perm=[0,2,3,1]>(a) c = Slice(b, s, e, h, d) f = Expand(o, j) g = Mul(c, f) "
        "r = ReduceMean<axes=[3]>(g) q = Squeeze(r, l) t = Flatten(q) z = Clip(t, m) w = LeakyRelu<alpha=0.1>(z) "
        "k = Gather<axis=1>(w, i) u = ConstantOfShape<value = float[1] {0.5}>(n) y = Add(k, u)",
        {
            "p": ints(0, 0, 1, 1, 0, 0, 0, 2),
            "s": ints(0, -1),
            "e": ints(5, -(2**62)),
            "h": ints(1, 2),
            "d": ints(2, -3),
            "o": torch.tensor([2.0]),
            "j": ints(1, 1, 1, 3),
            "l": ints(3),
            "m": torch.tensor(-0.5),
            "i": ints(0, 3, 5),
            "n": ints(3),
        },
    )
    upsampling = onnx_model(
        "c = ConvTranspose<strides=[2,2], pads=[1,0,1,0], output_padding=[1,1]>(x, w) t = Tanh(c) "
        "d = DepthToSpace<blocksize=2>(t) g = GlobalAveragePool(d) f = Flatten(g) s = Sub(f, b) "
        "v = Div(s, e) y = Softmax<axis=1>(v)",
        {"w": noise(3, 8, 3, 3), "b": noise(2), "e": noise(2).abs() + 0.5},
        image="float[1,3,4,4] x",
    )
    return [convolutional, sorting, moving, upsampling]


def mutated(seed: int) -> bytes:
    """A file that was valid before one to three things happened to it."""
    chance = random.Random(seed)
    model = chance.choice(seeds())
    if chance.random() < 0.3:
        return _bytes_changed(model.SerializeToString(), chance)
    for _ in range(chance.randint(1, 3)):
        chance.choice(_FIELDS)(model, chance)
    return model.SerializeToString()


def _bytes_changed(data: bytes, chance: random.Random) -> bytes:
    content = bytearray(data)
    match chance.randrange(4):
        case 0:
            return bytes(content[: chance.randrange(len(content))])
        case 1:
            return chance.randbytes(chance.randrange(1, 400))
        case 2:
            place = chance.randrange(len(content))
            content[place:place] = chance.randbytes(chance.randrange(1, 20))
        case _:
            for _ in range(chance.randint(1, 8)):
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(content)


def _attribute(model: onnx.ModelProto, chance: random.Random) -> None:
    attributes = [a for n in model.graph.node for a in n.attribute]
    if not attributes:
        return
    attribute = chance.choice(attributes)
    match chance.randrange(4):
        case 0 if attribute.ints:
            attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice(INTEGERS)
        case 1 if attribute.ints:
            attribute.ints.append(chance.choice(INTEGERS))
        case 2:
            attribute.type = chance.choice((AttributeProto.INT, AttributeProto.STRING, AttributeProto.GRAPH))
        case _:
            attribute.i, attribute.f, attribute.s = chance.choice(INTEGERS), chance.choice(FLOATS), b"REFLECT\xff"


def _names(model: onnx.ModelProto, chance: random.Random) -> None:
    node = chance.choice(model.graph.node)
    values = [o for n in model.graph.node for o in n.output] + [t.name for t in model.graph.initializer] + ["", "x"]
    target = chance.choice((node.input, node.output))
    if target:
        target[chance.randrange(len(target))] = chance.choice(values)


def _kind(model: onnx.ModelProto, chance: random.Random) -> None:
    node = chance.choice(model.graph.node)
    node.op_type = chance.choice(KINDS)
    if chance.random() < 0.1:
        node.domain = "com.microsoft"


def _image(model: onnx.ModelProto, chance: random.Random) -> None:
    kind = model.graph.input[0].type.tensor_type
    axis = chance.choice(kind.shape.dim)
    match chance.randrange(4):
        case 0:
            axis.Clear()
        case 1:
            kind.elem_type = chance.randrange(20)
        case _:
            axis.dim_value = chance.choice(INTEGERS)


def _tensor_shape(model: onnx.ModelProto, chance: random.Random) -> None:
    tensor = chance.choice(model.graph.initializer)
    if tensor.dims and chance.random() < 0.7:
        tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice(INTEGERS)
    elif chance.random() < 0.5:
        tensor.dims.append(chance.choice(INTEGERS))
    else:
        tensor.data_type = chance.randrange(25)


def _tensor_values(model: onnx.ModelProto, chance: random.Random) -> None:
    tensor = chance.choice(model.graph.initializer)
    try:
        array = numpy_helper.to_array(tensor).copy()
    except Exception:  # an earlier mutation broke it
        return
    if array.size and array.dtype.kind in "fi":
        array.flat[chance.randrange(array.size)] = chance.choice(FLOATS if array.dtype.kind == "f" else INTEGERS)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _nodes(model: onnx.ModelProto, chance: random.Random) -> None:
    node = chance.choice(model.graph.node)
    match chance.randrange(3):
        case 0:
            model.graph.node.remove(node)
            if not model.graph.node:
                model.graph.node.add().op_type = "Relu"
        case 1:
            model.graph.node.add().CopyFrom(node)
        case _:
            attributes = [a for m in seeds() for n in m.graph.node for a in n.attribute]
            node.attribute.add().CopyFrom(chance.choice(attributes))


def _header(model: onnx.ModelProto, chance: random.Random) -> None:
    match chance.randrange(4):
        case 0:
            model.opset_import[0].version = chance.choice((0, 6, 7, 9, 11, 12, 13, 18, 21, 23, *INTEGERS))
        case 1:
            model.ir_version = chance.choice(INTEGERS)
        case 2:
            model.graph.output[0].name = chance.choice(["x", "", "nothing", model.graph.node[0].output[0]])
        case _:
            model.graph.initializer.add().CopyFrom(chance.choice(model.graph.initializer))


_FIELDS: tuple[Callable[[onnx.ModelProto, random.Random], None], ...] = (
    *(_attribute, _attribute, _names, _kind, _image, _tensor_shape, _tensor_values, _tensor_values, _nodes, _header),
)
