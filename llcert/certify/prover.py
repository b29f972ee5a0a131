"""Proofs of what an estimate certified: the same bounds in float64, with proved norms and every rounding paid for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial

import torch
from torch import Tensor

from llcert.bounds import TIGHT, Slack, Trace, VerifiedArithmetic, pairwise_margins, propagate
from llcert.bounds.ascent import Ascent
from llcert.bounds.boxes import Asked, backward_boxes
from llcert.bounds.branching import bounds_of
from llcert.bounds.dual import Backward, Choice, Fixed, Tightest, differences
from llcert.bounds.forward.outward import enclosing_ball
from llcert.bounds.global_lipschitz import GlobalBound
from llcert.bounds.liplt import Composed
from llcert.bounds.unmasked import MaskedOnly, proved_bound
from llcert.certify.explained import Proof, Witness, explained
from llcert.certify.heads import rounding, told_apart
from llcert.certify.proof_hint import BranchCover, FixedRelaxation, ProofHint
from llcert.certify.radii import Eps, Radii, above
from llcert.certify.settings import Semantics, Settings
from llcert.certify.specification import FIRST, Specification
from llcert.certify.verdict import Assurance
from llcert.errors import UnsupportedModel
from llcert.ir import Activation, Network, Node, Op, format_name, topological
from llcert.machine.memory import free_memory
from llcert.ops import Sigmoid
from llcert.program import Program, lower
from llcert.region import PixelRange
from llcert.rounding import direct_sums
from llcert.spectral import RandomLanczos, Remembered, Side, Solver, Verified


@dataclass(frozen=True)
class Prover:
    """Lower bounds of margins that hold for the network as it is run, or as real numbers.

    program: in float64. bound: its proved norms. solver: of local norms. side: what they must be at least. eps: not
    below the radius that was asked. deployed: whether of the network as it is run too; else in real numbers alone.
    asked: what asks for boxes of the program's blocks. ascent: the last attempt on rows that the estimate certified.
    within: the range of pixels that a claim is restricted to. slack: room for a checker. specification: whose
    margins count. heads: of the network, behind its logits. liplt: the bound with LipLT in it, costly, made when asked.
    """

    program: Program
    bound: GlobalBound
    solver: Solver
    eps: Eps
    side: Side
    deployed: bool
    asked: Asked
    within: PixelRange | None = None
    ascent: Ascent = field(default_factory=lambda: Ascent(steps=60))
    slack: Slack = TIGHT
    specification: Specification = FIRST
    heads: tuple[tuple[Op, ...], ...] = ()
    liplt: Callable[[], GlobalBound] | None = None

    def __call__(self, images: Tensor, labels: Tensor, hint: ProofHint, eps: Tensor | None = None) -> Tensor:
        """Lower bounds of `z_y - z_j` over each ball, `[batch, logits]`; infinite for j = y. NaN proves nothing.

        images: `[batch, *input shape]`, pixel units. labels: y, the claim's references; where j is no rival of any, the
        bound is -inf. eps: a radius for each image, `[batch]`, in place of the prover's one for all.
        """
        with torch.no_grad(), direct_sums():
            trace = self._trace(images.to(torch.float64), hint, eps)
            return self._told_apart(self._margins(trace, labels, hint), labels, trace)

    def explained(self, images: Tensor, labels: Tensor, hint: ProofHint, eps: Tensor | None = None) -> Proof:
        """The same, and how it was found."""
        with torch.no_grad(), direct_sums():
            trace = self._trace(images.to(torch.float64), hint, eps)
            proof = explained(self._backward(), trace, labels, hint, self.ascent, self.specification)
            margins = self._told_apart(proof.margins, labels, trace)
            return replace(
                proof, margins=margins, margin=self.specification.margin(margins, labels, self.program.classes)
            )

    def _told_apart(self, margins: Tensor, labels: Tensor, trace: Trace) -> Tensor:
        """The margins that count behind the network's heads."""
        logits, first = trace.post_activation[self.program.output].region, self.specification.spare == 0
        return told_apart(self.heads, margins, labels, logits, first=first) if self.deployed else margins

    def _backward(self) -> Backward:
        return Backward(self.program, clip=self.within is not None)

    def _trace(self, images: Tensor, hint: ProofHint, eps: Tensor | None) -> Trace:
        if eps is None:
            if isinstance(self.eps, Radii):
                raise ValueError("each image has its own radius; say which")
            eps = torch.full((len(images),), self.eps, dtype=torch.float64, device=images.device)
        form = self.program.input.rounding if self.deployed else None
        region = enclosing_ball(images, eps, within=self.within, deployed=form)
        solver = Remembered(self.solver) if hint.local else None
        arithmetic = VerifiedArithmetic(self._bound(hint), solver, self.deployed, self.slack)
        trace = propagate(self.program, region, arithmetic, weighting=hint.weighting)
        if hint.intermediate:
            boxes = backward_boxes(self._backward(), trace, self.asked.probes)
            trace = propagate(self.program, region, arithmetic, weighting=hint.weighting, boxes=boxes)
        if trace.side is not Side.UPPER and trace.side is not self.side:
            raise ValueError(f"norms of side {trace.side.value} do not support a claim that needs {self.side.value}")
        return trace

    @property
    def softened(self) -> bool:
        """Whether a proof has to pay for a softmax behind the logits."""
        kinds = [rounding(head) for head in self.heads]
        return self.deployed and any(op is not None and not isinstance(op, Sigmoid) for op in kinds)

    def knows(self, hint: ProofHint) -> bool:
        """Whether it has what a plan takes: where proofs are kept there is no LipLT."""
        return not hint.liplt or self.liplt is not None

    def _bound(self, hint: ProofHint) -> GlobalBound:
        return self.liplt() if hint.liplt and self.liplt is not None else self.bound

    def _margins(self, trace: Trace, labels: Tensor, hint: ProofHint) -> Tensor:
        backward = self._backward()
        directions = differences(labels, self.program)
        others = self.specification.others(directions.shape[1], self.program.classes)
        margins = torch.full_like(directions[:, 0], -torch.inf)
        margins[:, others] = backward.last(trace, {self.program.output: directions[:, others]})
        margins[:, others] = torch.fmax(margins, pairwise_margins(self.program, self._bound(hint), trace, labels))[
            :, others
        ]
        if hint.backward:
            self._carry(backward, trace, directions, margins, labels, hint)
        return margins.scatter(1, labels[:, None], torch.inf)

    def _carry(
        self, backward: Backward, trace: Trace, directions: Tensor, margins: Tensor, labels: Tensor, hint: ProofHint
    ) -> None:
        """Raises the margins of what is open, carried down: in closed form, as chosen, by an ascent from there."""
        tried: list[_Attempt] = [_closed]
        if hint.cover is None:
            tried += [partial(_repeated, hint.relaxation), partial(_ascended, hint.relaxation, self.ascent)]
        else:
            tried += [partial(_branched, hint.cover, self.ascent)]
        for attempt in tried:
            open_ = torch.nonzero(self.specification.open(margins, labels, self.program.classes))
            for part in open_.split(backward.rows_at_once) if len(open_) else ():
                image, row = part.unbind(1)
                rows = {self.program.output: directions[image, row][:, None]}
                found = attempt(backward, trace.select(image), rows, (image, row))
                margins[image, row] = torch.fmax(margins[image, row], found[:, 0])


_Attempt = Callable[[Backward, Trace, Mapping[Node, Tensor], tuple[Tensor, Tensor]], Tensor]
"""Lower bounds for rows, one for each image of a trace, `[rows, 1]`; the last argument says which image and class."""


def _closed(backward: Backward, trace: Trace, rows: Mapping[Node, Tensor], _: tuple[Tensor, Tensor]) -> Tensor:
    return backward(trace, rows, Tightest(), stops=True).lower


def _repeated(
    relaxation: FixedRelaxation | None,
    backward: Backward,
    trace: Trace,
    rows: Mapping[Node, Tensor],
    which: tuple[Tensor, Tensor],
) -> Tensor:
    """With the choices that the estimate made; nothing where it made none."""
    (only,) = rows.values()
    found = torch.full(only.shape[:2], -torch.inf, dtype=only.dtype, device=only.device)
    if relaxation is None:
        return found
    here, there = relaxation.find(*which)
    if len(here):
        choices = {k: Choice(c.slopes[there].double(), c.lam[there].double()) for k, c in relaxation.choices.items()}
        chosen = {n: r[here] for n, r in rows.items()}
        found[here] = backward(trace.select(here), chosen, Fixed(choices), stops=True).lower
    return found


def _branched(
    cover: BranchCover,
    ascent: Ascent,
    backward: Backward,
    trace: Trace,
    rows: Mapping[Node, Tensor],
    which: tuple[Tensor, Tensor],
) -> Tensor:
    """The worst part of the ball, for rows that were branched; nothing for others."""
    (only,) = rows.values()
    found = torch.full(only.shape[:2], -torch.inf, dtype=only.dtype, device=only.device)
    known = {pair: i for i, pair in enumerate(zip(*(w.tolist() for w in which), strict=True))}
    for row, pair in enumerate(zip(cover.images.tolist(), cover.classes.tolist(), strict=True)):
        if pair not in known:
            continue
        at = known[pair]
        leaves = cover.leaves.select(cover.leaves.rows == row).double()
        images = torch.full_like(leaves.rows, at)
        bounds = bounds_of(backward, trace.select(images), {n: r[images] for n, r in rows.items()}, leaves, ascent)
        found[at] = bounds.amin() if len(bounds) else -torch.inf
    return found


def _ascended(
    relaxation: FixedRelaxation | None,
    ascent: Ascent,
    backward: Backward,
    trace: Trace,
    rows: Mapping[Node, Tensor],
    which: tuple[Tensor, Tensor],
) -> Tensor:
    """By an ascent on the proved bound itself, from the estimate's choices or else the tightest."""
    choices = dict(backward(trace, rows, Tightest()).choices)
    if relaxation is not None:
        relaxation.fill(choices, *which)
    return ascent(backward, trace, rows, choices, enough=0.0)[0]


_ATTEMPTS = 12
"""At most so often are the norms of one image asked for: three plans of the stage local, one of crown-ball, two each of
crown-ball-intermediate and branch, which propagate twice, two of a search for its radius, and some to spare."""

_WHOLE = 10.0
"""The norms of whole maps, proved once a network, may take so many times what those of an image may take."""

_FREE = 0.5
"""Share of the free memory that a factorisation may take."""

_RATE = 1e10
"""Operations a second that a budget of seconds stands for, so that it means the same on every machine."""


def _check_parameters(program: Program) -> None:
    """Nothing, where formats hold what is computed in them: bends exactly, coefficients up to their rounding.

    Raises UnsupportedModel naming the operator.
    """
    for node in topological(program.output):
        for name, tensor in node.op.tensors().items():
            held = tensor.to(node.dtype).to(tensor.dtype)
            lost = (held != tensor) & ~tensor.isnan()
            if bool((lost if isinstance(node.op, Activation) else lost & held.isinf()).any()):
                form, where = format_name(node.dtype), node.name or "without a name"
                raise UnsupportedModel(
                    f"{node.op.label} {where}: its {name} is no {form} number, though its value is computed in {form}; "
                    "--semantics real speaks of real numbers alone"
                )


def _check_heads(network: Network) -> None:
    """Nothing, where it is known what rounds behind the logits. Raises UnsupportedModel."""
    try:
        for head in network.heads:
            rounding(head)
    except UnsupportedModel as unknown:
        raise UnsupportedModel(f"{network.source}: {unknown}") from None


def provers_of(
    network: Network,
    settings: Settings,
    device: torch.device | str,
    witness: Witness | None = None,
) -> dict[Assurance, Prover]:
    """The prover of the assurance that is asked for, and of every weaker one that needs a proof.

    witness: of deterministic proofs.
    """
    program = lower(network, device, torch.float64)
    deployed = settings.semantics is Semantics.FLOAT32
    if deployed:
        _check_parameters(program)
        _check_heads(network)
    slack = TIGHT if witness is None else witness.slack(program, deployed)
    terms = [t for b in program.blocks for t in b.terms if not t.moves]
    budget = settings.proof_seconds * _RATE / max(len(terms), 1)
    free = min(free_memory(d) for d in (program.device, torch.device("cpu")))  # a sparse one is the host's
    verified = Verified(operations=budget, memory=min(Verified.memory, max(_FREE * free, 1)))
    norms = _ATTEMPTS * (len(terms) + len(program.blocks))
    solvers: dict[Assurance, tuple[Solver, Side]] = {
        Assurance.PROBABILISTIC: (RandomLanczos(settings.delta / norms, seed=settings.seed), Side.PROBABLE),
        Assurance.DETERMINISTIC: (verified, Side.UPPER),
    }
    if settings.assurance is Assurance.PROBABILISTIC:
        del solvers[Assurance.DETERMINISTIC]
    whole = Remembered(replace(verified, operations=_WHOLE * budget, maps=1))  # LipLT asks again
    with torch.no_grad(), direct_sums():
        bound = proved_bound(program, whole)

    @cache
    def liplt() -> GlobalBound:
        with torch.no_grad(), direct_sums():
            return proved_bound(program, whole, Composed.of(program))

    asked = Asked(program)
    return {
        assurance: Prover(
            program,
            bound,
            MaskedOnly(solver),
            eps=above(settings.eps),
            side=side,
            deployed=deployed,
            asked=asked,
            within=settings.within,
            slack=slack if assurance is Assurance.DETERMINISTIC else TIGHT,
            specification=settings.specification,
            heads=network.heads,
            liplt=None if witness else liplt,
        )
        for assurance, (solver, side) in solvers.items()
    }
