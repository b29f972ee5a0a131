"""The loss of a batch: what the bounds say about it, and what a recipe makes of that."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor, nn

from llcert.bounds import (
    Balls,
    EstimatedArithmetic,
    GlobalBound,
    LastLayer,
    MaskedRegion,
    Start,
    Trace,
    global_bound,
    gloro_margins,
    lmt_margins,
    propagate,
    worst_margins,
)
from llcert.bounds.global_lipschitz.stacked import Stacked
from llcert.bounds.liplt import Composed
from llcert.domain.region import Region, ball
from llcert.errors import InvalidInput
from llcert.ir import Node
from llcert.numerics.tensors import channels_last
from llcert.program import Program, Term
from llcert.spectral import random_start
from llcert_train import losses
from llcert_train.crown import raised_margins
from llcert_train.norms import FewIterations, OneProduct, unit_leaf
from llcert_train.settings import Ball, Loss, Recipe
from llcert_train.settings import Start as RecipeStart


class Margin(enum.Enum):
    """How far the logits can move against each other, once the last hidden region is known."""

    LOGITS = enum.auto()  # one ball around all logits (LMT)
    BALL = enum.auto()  # the ball of the last hidden value (GloRo)
    PAIRS = enum.auto()  # each pair of logits by its own Lipschitz constant (LipLT)
    BOX = enum.auto()  # its box, and its ball where it has one (BCP; IBP without a ball)
    BACKWARD = enum.auto()  # the same, and a backward pass for the class that comes nearest


class Form(enum.Enum):
    """What the robust term of the loss is."""

    WORST_CASE = enum.auto()
    GLORO = enum.auto()
    EMMA = enum.auto()
    LOGIT_ANNEALING = enum.auto()
    CRM = enum.auto()


@dataclass(frozen=True)
class Method:
    """A row of the paper's Table 2, or a later loss. balls: None for no bound at all. Forms other than the worst case
    stand alone; the worst case is weighed against the clean loss by kappa."""

    balls: Balls | None
    margin: Margin
    form: Form = Form.WORST_CASE

    @property
    def needs_no_pass(self) -> bool:
        """Whether the logits and the global bound are all that it looks at."""
        return self.balls is Balls.GLOBAL and self.margin not in (Margin.BOX, Margin.BACKWARD)


METHODS: Mapping[Loss, Method] = MappingProxyType(
    {
        Loss.STANDARD: Method(None, Margin.BOX),
        Loss.IBP: Method(Balls.BOX, Margin.BOX),
        Loss.LMT: Method(Balls.GLOBAL, Margin.LOGITS),
        Loss.GLORO: Method(Balls.GLOBAL, Margin.BALL, Form.GLORO),
        Loss.BCP: Method(Balls.GLOBAL, Margin.BOX),
        Loss.LOCAL_LIP_G: Method(Balls.LOCAL, Margin.BALL, Form.GLORO),
        Loss.LOCAL_LIP_B: Method(Balls.LOCAL, Margin.BOX),
        Loss.EMMA: Method(Balls.LOCAL, Margin.BOX, Form.EMMA),
        Loss.LOGIT_ANNEALING: Method(Balls.LOCAL, Margin.BOX, Form.LOGIT_ANNEALING),
        Loss.PAIRWISE: Method(Balls.GLOBAL, Margin.BALL),
        Loss.CROWN: Method(Balls.GLOBAL, Margin.BACKWARD),
        Loss.CRM: Method(Balls.GLOBAL, Margin.BALL, Form.CRM),
    }
)


def method_of(recipe: Recipe) -> Method:
    """The recipe's method, its balls replaced where the recipe says so; those without a ball have none to replace."""
    method = METHODS[recipe.loss]
    if recipe.ball is None or method.balls in (None, Balls.BOX):
        return method
    if method.margin is Margin.BACKWARD and recipe.ball in (Ball.PRODUCT, Ball.LIPLT):
        raise InvalidInput(f"ball {recipe.ball}: the loss crown needs boxes; choose global or local")
    if recipe.ball is Ball.LIPLT:
        return Method(Balls.GLOBAL, Margin.PAIRS, method.form)
    if recipe.ball is Ball.PRODUCT:
        return Method(Balls.GLOBAL, Margin.BALL, method.form)
    balls = Balls.LOCAL if recipe.ball is Ball.LOCAL else Balls.GLOBAL
    return Method(balls, method.margin, method.form)


@dataclass(frozen=True)
class Measures:
    """The loss of a batch, a scalar with a gradient, what it is about, and the vectors its norms were found with.

    clean_loss, robust_loss: cross-entropy of the logits and of the worst logits, whatever the form of the loss, at
    temperature 1 and without gradient; the second is NaN where there is no bound.
    vectors: right singular vectors of each image's maps, `[batch, *columns]`; unmasked: of the whole maps, which
    `improved` reads once the gradient of the loss is there.
    """

    loss: Tensor
    clean_loss: Tensor
    robust_loss: Tensor
    sparsity: Tensor
    vectors: dict[Term, Tensor]
    unmasked: dict[Term, Tensor]


class Objective(nn.Module):
    """The loss of a recipe on a program; its parameters are the program's leaves.

    iterates_backward: whether the step's own backward pass carries out the one iteration that is asked for.
    narrow: the format of the network's products where no bound is propagated along with it; None for the program's.
    Norms and losses never have it.

    A module, so that PyTorch's engine for several devices can wrap it.
    """

    def __init__(self, program: Program, recipe: Recipe, leaves: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self.program = program
        self.recipe = recipe
        self.method = method_of(recipe)
        self.leaves = nn.ParameterList(leaves.values())
        self.narrow: torch.dtype | None = None
        self.solver = FewIterations(recipe.iterations, recipe.mixed)
        self.iterates_backward = recipe.iterations == 1 and self.needs_no_pass
        self.composed = Composed.of(program) if self.method.margin is Margin.PAIRS else None
        together = self.composed if self.iterates_backward else None
        self.stacked = None if together is None else Stacked.of(program, together)

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        radius: float,
        kappa: float,
        unmasked: Mapping[Term, Tensor],
        saved: Mapping[Term, Tensor],
        seed: int,
    ) -> Measures:
        """The measures of a batch.

        images: `[batch, *shape]`, pixel units. radius: trained at, likewise; 0 asks for no bound. kappa: weight of the
        clean loss. unmasked, saved: where power iterations start, on the whole maps and on each image's; random
        where a term is missing. seed: of random starts.
        """
        if self.method.balls is None or radius == 0:
            logits = self._logits(images)
            return self._measures(logits, labels, logits, kappa, None, None)
        bound = None if self.method.balls is Balls.BOX else self._bound(unmasked)
        trace = self._trace(images, radius, bound, saved, seed)
        logits = self._logits(images) if trace is None else trace.post_activation[self.program.output].region.centre
        margins = self._margins(logits, labels, bound, trace, radius)
        worst = losses.worst_logits(logits, labels, margins)
        return self._measures(logits, labels, worst, kappa, bound, trace, radius)

    @property
    def needs_no_pass(self) -> bool:
        """Whether the logits and at most the global bound are all that the loss looks at."""
        return self.method.balls is None or (self.method.needs_no_pass and self.recipe.sparsity == 0)

    def _logits(self, images: Tensor) -> Tensor:
        return self.program.logits(channels_last(images), self.narrow)

    def _bound(self, starts: Mapping[Term, Tensor]) -> GlobalBound:
        solver = OneProduct() if self.iterates_backward else self.solver
        if self.stacked is None:
            return global_bound(self.program, solver, starts=starts, joint=False, crude=False, composed=self.composed)
        known = self.stacked.known({t: unit_leaf(self._start(t, starts)) for t in self.stacked.terms})
        bound = global_bound(
            self.program, solver, starts=starts, joint=False, crude=False, composed=self.composed, known=known
        )
        return replace(bound, vectors={**starts, **bound.vectors})

    def _start(self, term: Term, starts: Mapping[Term, Tensor]) -> Tensor:
        """`[1, *columns]`; random where none is given."""
        like = torch.empty((), dtype=self.program.dtype, device=self.program.device)
        return starts[term] if term in starts else random_start((1, *term.columns), like, 0)

    def _trace(
        self, images: Tensor, radius: float, bound: GlobalBound | None, saved: Mapping[Term, Tensor], seed: int
    ) -> Trace | None:
        """The forward pass of the bounds; None where the global bound says all that is needed."""
        balls, recipe = self.method.balls, self.recipe
        assert balls is not None
        if self.needs_no_pass:
            return None
        start = Start.SAVED if recipe.start is RecipeStart.SAVED else Start.RANDOM
        arithmetic = EstimatedArithmetic(bound, balls, self.solver, start, saved, seed, joint=False)
        return propagate(self.program, ball(images, radius), arithmetic)

    def _margins(
        self, logits: Tensor, labels: Tensor, bound: GlobalBound | None, trace: Trace | None, radius: float
    ) -> Tensor:
        if self.method.margin is Margin.LOGITS:
            assert bound is not None
            lipschitz = (
                bound.logit_lipschitz if trace is None or trace.logit_lipschitz is None else trace.logit_lipschitz
            )
            return lmt_margins(logits, labels, lipschitz * radius)
        last = LastLayer.of(self.program)
        if self.method.margin is Margin.PAIRS and bound is not None and bound.pairs is not None:
            own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
            kept = logits.gather(1, labels[:, None]) - logits - bound.pairs[labels] * radius
            return kept.masked_fill(own, torch.inf)
        if self.method.balls is Balls.GLOBAL and self.method.margin in (Margin.BALL, Margin.PAIRS):
            assert bound is not None
            hidden = {t.source: self._ball(t.source, bound.lipschitz[t.source] * radius, logits) for t in last.rows}
            return gloro_margins(logits, labels, last, hidden)
        assert trace is not None
        if self.method.margin is Margin.BALL:
            return gloro_margins(logits, labels, last, trace.post_activation)
        margins = worst_margins(logits, labels, last, trace.post_activation)
        if self.method.margin is Margin.BOX:
            return margins
        return raised_margins(self.program, trace, labels, margins)

    def _ball(self, node: Node, radius: Tensor, logits: Tensor) -> MaskedRegion:
        """A value of which nothing is known but the radius of its ball."""
        nothing = logits.new_zeros(len(logits), *node.shape)
        region = Region(nothing, nothing - torch.inf, nothing + torch.inf, radius.expand(len(logits)))
        return MaskedRegion(region, torch.ones_like(nothing, dtype=torch.bool))

    def _measures(
        self,
        logits: Tensor,
        labels: Tensor,
        worst: Tensor,
        kappa: float,
        bound: GlobalBound | None,
        trace: Trace | None,
        radius: float = 0.0,
    ) -> Measures:
        clean = losses.clean(logits / self.recipe.temperature, labels)
        robust = self._robust(logits, worst, labels, radius)
        if self.method.balls is None:
            kappa = 1.0
        elif self.method.form is not Form.WORST_CASE:
            kappa = 0.0
        loss = clean if kappa == 1 else robust if kappa == 0 else kappa * clean + (1 - kappa) * robust
        sparsity = logits.new_zeros(())
        if self.recipe.sparsity > 0 and trace is not None:
            sparsity = self._sparsity(trace)
            loss = loss + self.recipe.sparsity * sparsity
        vectors = (
            {} if trace is None else {t: n.vector.detach() for t, n in trace.norms.items() if n.vector is not None}
        )
        unmasked = {} if bound is None else bound.vectors
        with torch.no_grad():
            told = losses.clean(logits, labels), losses.worst_case(worst, labels)
        if self.method.balls is None:
            told = told[0], told[1] * torch.nan
        return Measures(loss, *told, sparsity.detach(), vectors, unmasked)

    def _robust(self, logits: Tensor, worst: Tensor, labels: Tensor, radius: float) -> Tensor:
        """The robust term of the loss; the temperature divides logits."""
        recipe = self.recipe
        if self.method.form is Form.LOGIT_ANNEALING:
            settings = {"exponent": recipe.annealing, "offset": recipe.offset, "temperature": recipe.temperature}
            return losses.logit_annealing(losses.raised(logits, worst, labels), labels, **settings)
        if self.method.form is Form.CRM:
            return self._crm(logits, worst, labels, radius)
        logits, worst = logits / recipe.temperature, worst / recipe.temperature
        match self.method.form:
            case Form.WORST_CASE:
                return losses.worst_case(worst, labels)
            case Form.GLORO:
                return losses.gloro(logits, worst, labels)
            case Form.EMMA:
                return losses.emma(logits, worst, labels)

    def _crm(self, logits: Tensor, worst: Tensor, labels: Tensor, radius: float) -> Tensor:
        recipe = self.recipe
        if radius == 0:
            return losses.clean(logits / recipe.temperature, labels)
        return losses.crm(
            logits,
            worst,
            labels,
            radius,
            weight=recipe.radius_weight,
            limit=recipe.radius_limit,
            sharpness=recipe.radius_sharpness,
            temperature=recipe.temperature,
        )

    def _sparsity(self, trace: Trace) -> Tensor:
        """Eq. 12 over all activations that can become constant."""
        gaps = [
            b.activation.gaps(trace.pre_activation[b.node]) for b in self.program.blocks if b.activation is not None
        ]
        known = [own for own in gaps if own]
        return losses.sparsity(known) if known else next(self.leaves.parameters()).new_zeros(())
