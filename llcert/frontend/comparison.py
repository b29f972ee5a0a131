"""Does a network compute what its own file or module says? Asked of that file's or module's own runtime.

What may differ is rounding, and differences of logits are what counts. How much they may differ is bounded, operation
by operation, as a proof bounds it. That is the worst case: they must not differ either by far more than the network
differs from itself in two formats.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from llcert.bounds.evaluation import Evaluation, bytes_an_image, evaluation, images_at_once, least_evaluation
from llcert.errors import InvalidInput, UnsupportedModel
from llcert.frontend.probing import inputs_of
from llcert.ir import Input, Network, Node, Original, evaluate_as_run, topological
from llcert.machine.memory import free_memory
from llcert.ops import Cast
from llcert.program import Program, lower

FAR_MORE = 1000.0
"""How many times the rounding that is seen no rounding is."""

_NOISY = 1e-4
"""Rounding, relative to the differences of logits, that users are told of."""

_LEAST_ROUNDINGS = 8
"""Roundings of the largest logit that are there even where none is seen, as few sums are long: one whose terms a
runtime adds up one after the other may err by as many roundings as it has terms."""


@dataclass(frozen=True)
class Agreement:
    """How far the differences of logits of a network and of its original agree.

    difference: the largest difference of two such, relative to the largest of them, dimensionless. rounding: what the
    network differs by from itself in two formats, likewise. inputs: how many were compared. runtime: of the original.
    """

    difference: float
    rounding: float
    inputs: int
    runtime: str

    @property
    def sentence(self) -> str:
        """What a report says about it."""
        agrees = f"agrees with {self.runtime} to {self.difference:.1e} (relative) on {self.inputs} inputs"
        if max(self.difference, self.rounding) <= _NOISY:
            return agrees
        return (
            f"{agrees}: rounding alone moves its logits that far (numbers in it cancel), so that a proof that pays for "
            "rounding may prove nothing"
        )


def checked(network: Network) -> Network:
    """The network with a note on how far it agrees with its original on inputs of many kinds.

    Raises UnsupportedModel where they differ by more than rounding.
    """
    if network.original is None or isinstance(network.output.op, Input):  # nothing of the latter is ever certified
        return network
    program = lower(network, "cpu", torch.float64)
    _check_room(network, program, network.original)
    pixels, *others = inputs_of(lower(network, "cpu", torch.float32))
    kinds = [pixels, *(images[_finite(network, images, images_at_once(program))] for images in others)]
    found = [
        compared(network, images, original, program)
        for images in kinds
        for original in (network.original, *network.original.variants)
        if len(images)
    ]
    worst = max(found, key=lambda a: a.difference)
    ways = 1 + len(network.original.variants)
    total = replace(worst, inputs=sum(a.inputs for a in found) // ways, rounding=max(a.rounding for a in found))
    return replace(network, notes=(*network.notes, total.sentence))


def _finite(network: Network, images: Tensor, at_once: int) -> Tensor:
    """At which images nothing overflows, boolean `[images]`; computed so many at a time."""
    return _as_run(network, images.to(network.input.dtype), at_once).isfinite().all(1)


@torch.no_grad()
def _as_run(network: Network, images: Tensor, at_once: int) -> Tensor:
    return torch.cat([evaluate_as_run(network.output, part) for part in images.split(at_once)])


def compared(
    network: Network, images: Tensor, original: Original | None = None, program: Program | None = None
) -> Agreement:
    """How far a network agrees with its original on some images of one kind, `[images, *input shape]`.

    original: in place of the network's own. program: of the network, in float64, if there is one. Raises
    UnsupportedModel where they differ by more than rounding, or the runtime fails, InvalidInput for images that do not
    fit.
    """
    agreement, differ = measured(network, images, original, program)
    if differ:
        raise UnsupportedModel(
            f"{network.source}: llcert and {agreement.runtime} disagree by {agreement.difference:.1e} (relative, of "
            f"differences of logits, where rounding was seen to make {agreement.rounding:.1e}): the import is wrong; "
            "please report it"
        )
    return agreement


def _check_room(network: Network, program: Program, original: Original) -> None:
    """Raises UnsupportedModel where what both compute of as few images as they can takes more than there is."""
    one, free = bytes_an_image(program), free_memory(program.device)
    named = f"its value {program.largest.name!r} of shape {program.largest.shape}"
    if one > free:
        raise UnsupportedModel(
            f"{network.source}: one image takes about {one / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free; "
            f"{named} is the largest: smaller images, fewer channels or more memory would help"
        )
    run = original.together * torch.finfo(original.dtype).bits // 8 * sum(program.most)
    if original.together > 1 and run > min(free, _LARGEST_RUN):
        raise UnsupportedModel(
            f"{network.source}: computes {original.together} images at a time, which takes about {run / 2**30:.1f} GiB "
            f"({named} of each); export it with a batch of one, or a free batch axis"
        )


_LARGEST_RUN = 2 << 30
"""Bytes that a batch which is baked into a file may take."""


def measured(
    network: Network, images: Tensor, original: Original | None = None, program: Program | None = None
) -> tuple[Agreement, bool]:
    """The same, and whether they differ by more than rounding, which is not raised."""
    original = original or network.original
    assert original is not None, "a network that was made here has nothing to be compared with"
    if tuple(images.shape[1:]) != network.input.shape:
        raise InvalidInput(
            f"{network.source}: images {tuple(images.shape[1:])} do not fit its input {network.input.shape}"
        )
    images = images.to("cpu", network.input.dtype)
    program = program or lower(network, "cpu", torch.float64)
    _check_room(network, program, original)
    parts = images.split(max(images_at_once(program), original.together))
    theirs = torch.cat([original.logits(part).detach().double() for part in parts])
    if not bool(theirs.isfinite().all()):
        raise UnsupportedModel(
            f"{network.source}: its logits are NaN or infinite, or not what it answers by (by {original.name}); "
            "its weights are broken"
        )
    known = Rounded.of(network, original, images, program)
    scale = max(_spread(theirs), torch.finfo(torch.float64).tiny)
    agreement = Agreement(_spread(theirs - known.values) / scale, known.seen / scale, len(images), original.name)
    return agreement, bool((known.far(theirs) | known.beyond(theirs)).any())


@dataclass(frozen=True, eq=False)
class Rounded:
    """What a network computes at some images, and how far from it rounding may lead another evaluation.

    network: every value in the format in which the other evaluation computes it. program: of that, in float64.
    images: `[images, *input shape]`.
    """

    network: Network
    program: Program
    images: Tensor

    @staticmethod
    def of(network: Network, original: Original, images: Tensor, program: Program | None = None) -> Rounded:
        """program: of the network, in float64, if there is one."""
        if original.single and network.dtype == torch.float64:
            network, program = in_single(network), None
        images = images.to(network.input.dtype)
        return Rounded(network, program or lower(network, images.device, torch.float64), images)

    @property
    def values(self) -> Tensor:
        """Logits in float64, `[images, classes]`."""
        return self.least.values

    @cached_property
    def least(self) -> Evaluation:
        """The values, and a part of what rounding may be that costs nothing to know."""
        return least_evaluation(self.program, self.images)

    @cached_property
    def seen(self) -> float:
        """The largest difference of differences of logits between two formats, or of a few roundings."""
        images = self.images.to(self.program.device)
        own = _as_run(self.network, images, images_at_once(self.program)).to(self.values)
        unit = self.network.output.rounding.unit
        longest = max(block.roundings for block in self.program.blocks)
        roundings = max(_LEAST_ROUNDINGS, longest / FAR_MORE)
        floor = roundings * unit * float(self.values.abs().amax()) if len(own) else 0.0
        return max(_spread(own - self.values), floor)

    def differs(self, theirs: Tensor) -> Tensor:
        """Whether other logits differ from these by more than rounding, boolean `[images]`; NaN does.

        theirs: `[images, classes]`.
        """
        if bool((self.least.excess(theirs) <= 0).all()):
            return torch.zeros(len(theirs), dtype=torch.bool, device=theirs.device)
        return self.beyond(theirs) | (self.far(theirs) & ~(self.least.excess(theirs) <= 0))

    def beyond(self, theirs: Tensor) -> Tensor:
        """Whether they differ by more than any rounding can, boolean `[images]`."""
        found = ~(self.least.excess(theirs) <= 0)
        open_ = torch.nonzero(found)[:, 0]
        if len(open_):
            whole = evaluation(self.program, self.images[open_])
            found[open_] = ~(whole.excess(theirs[open_]) <= 0)
        return found

    def far(self, theirs: Tensor) -> Tensor:
        """Whether they differ by far more than rounding does, boolean `[images]`."""
        return ~(_spreads(theirs - self.values) <= FAR_MORE * self.seen)


def in_single(network: Network) -> Network:
    """The same network with every value in float32."""
    new: dict[Node, Node] = {}
    for node in topological(network.output):
        op = Input(node.shape) if isinstance(node.op, Input) else node.op
        op = Cast(torch.float32) if isinstance(op, Cast) else op
        new[node] = replace(node, op=op, inputs=tuple(new[i] for i in node.inputs), dtype=torch.float32)
    return replace(network, output=new[network.output])


def _spreads(logits: Tensor) -> Tensor:
    """The largest difference of two logits of each image, `[images]`."""
    return logits.amax(1) - logits.amin(1)


def _spread(logits: Tensor) -> float:
    return float(_spreads(logits).max()) if logits.numel() else 0.0
