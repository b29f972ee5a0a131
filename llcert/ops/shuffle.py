"""Pixel and channel shuffles: reshapes and transpositions, which cost nothing and round nothing."""

from __future__ import annotations

from llcert.ir import Node, apply
from llcert.ops.movement import Transpose, reshaped
from llcert.ops.registry import Call, from_onnx, from_torch_op


@from_onnx("DepthToSpace", "SpaceToDepth")
def read_pixel_shuffle(call: Call) -> Node:
    node, block = call.node(0), int(call.attributes.get("blocksize", 0))
    if not call.batched:
        call.refuse("needs a batch axis")
    channels, height, width = node.shape
    if call.kind == "SpaceToDepth":
        if block < 1 or height % block or width % block:
            call.refuse(f"blocksize {block} does not divide {node.shape}")
        split = reshaped(node, (channels, height // block, block, width // block, block))
        mixed = apply(Transpose((2, 4, 0, 1, 3)), split)
        return reshaped(mixed, (channels * block * block, height // block, width // block))
    if block < 1 or channels % (block * block):
        call.refuse(f"blocksize {block} does not divide {node.shape}")
    if call.attributes.get("mode", "DCR") == "DCR":
        less = channels // (block * block)
        mixed = apply(Transpose((2, 3, 0, 4, 1)), reshaped(node, (block, block, less, height, width)))
        return reshaped(mixed, (less, height * block, width * block))
    return shuffled(node, block)


def shuffled(node: Node, block: int) -> Node:
    """Pixel shuffle of `[channels, height, width]`: groups of neighbouring channels become blocks of pixels."""
    channels, height, width = node.shape
    less = channels // (block * block)
    mixed = apply(Transpose((0, 3, 1, 4, 2)), reshaped(node, (less, block, block, height, width)))
    return reshaped(mixed, (less, height * block, width * block))


@from_torch_op("pixel_shuffle", "pixel_unshuffle")
def read_torch_pixel_shuffle(call: Call) -> Node:
    node = call.node("self")
    if len(node.shape) != 3:
        call.refuse(f"needs images [channels, height, width], not {node.shape}")
    channels, height, width = node.shape
    if call.kind == "pixel_shuffle":
        return shuffled(node, int(call.attributes["upscale_factor"]))
    block = int(call.attributes["downscale_factor"])
    split = reshaped(node, (channels, height // block, block, width // block, block))
    mixed = apply(Transpose((0, 2, 4, 1, 3)), split)
    return reshaped(mixed, (channels * block * block, height // block, width // block))


@from_torch_op("channel_shuffle", "native_channel_shuffle")
def read_torch_channel_shuffle(call: Call) -> Node:
    node, groups = call.node("self"), int(call.attributes["groups"])
    split = reshaped(node, (groups, node.shape[0] // groups, *node.shape[1:]))
    mixed = apply(Transpose((1, 0, *range(2, len(split.shape)))), split)
    return reshaped(mixed, node.shape)
