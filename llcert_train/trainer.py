"""The state of a run and one step of it; all randomness is a function of the seed and of the step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from llcert.bounds import Balls, global_bound
from llcert.data.reading import reading
from llcert.errors import InvalidInput, LlcertError
from llcert.numerics.products import full_precision
from llcert.program import Program, Term
from llcert.reporting.numbers import finite
from llcert.spectral import PowerIteration
from llcert_train.augment import Augmentation
from llcert_train.data import TrainingData, generator, order
from llcert_train.metrics import Epoch, Train
from llcert_train.norms import improved
from llcert_train.objective import Measures, Objective, method_of
from llcert_train.schedules import Schedule
from llcert_train.settings import Recipe, Start
from llcert_train.team import Team
from llcert_train.warm_start import Room, WarmStarts, iterated
from llcert_train.watch import Watch
from llcert_train.weights import Weights

_PARTS = ("loss", "clean_loss", "robust_loss", "sparsity")
_HOPELESS = 1e15
_MORE = "ask for more, or start again with --overwrite"
_ADVICE = "go on from the last checkpoint with --resume and a lower --rate or --clip-gradient 1"


class Diverged(LlcertError):
    """Training ran into NaN or infinity; the last checkpoint is from before."""


@dataclass(frozen=True)
class Plan:
    """How long a run is, in steps. From one step on, `done`, its progress grows evenly from `progress` to 1."""

    steps: int
    steps_per_epoch: int
    done: int = 0
    progress: float = 0.0

    def at(self, step: int) -> float:
        """The share of the run that is done after some steps, from 0 to 1."""
        share = max(0, step - self.done) / max(1, self.steps - self.done)
        return min(1.0, self.progress + (1 - self.progress) * share)

    def changed(self, step: int, steps: int) -> Plan:
        """With so many steps in all, as known after some of them, whose progress stays."""
        return self if steps == self.steps else Plan(steps, self.steps_per_epoch, step, self.at(step))


@dataclass
class Trainer:
    """A network on its way. data: this process's images. step: steps done.

    seconds: spent so far, of all the runs that were continued, by the clock. sums: of the losses of the steps since the
    last record, and how many these were, `[5]`, float64. look: seconds that the last look at held-out images took.
    phase: which one of the recipe, with its objective. unmasked: singular vectors of the whole maps. warm: those of the
    images, in a phase that keeps them. average: of the weights that are moved, where it is asked for; looks
    and the network that comes out are of the average.
    """

    weights: Weights
    program: Program
    recipe: Recipe
    schedule: Schedule
    data: TrainingData
    team: Team = field(default_factory=Team)
    plan: Plan = Plan(1, 1)
    step: int = 0
    seconds: float = 0.0
    look: float = 0.0
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        recipe, device = self.recipe, self.program.device
        self.batch = min(self.team.share(recipe.batch), len(self.data))
        self.plan = self._whole(len(self.data) // self.batch)
        self.augmentation = Augmentation.of(recipe)
        self.moved = self.weights.moved
        self.optimiser = torch.optim.Adam(self.moved.values(), recipe.rate)
        self.average = {name: p.detach().clone() for name, p in self.moved.items()} if recipe.average else {}
        self.sums = torch.zeros(len(_PARTS) + 1, dtype=torch.float64, device=device)
        self.epoch_began = self.seconds
        self.rooms = tuple(self._room(phase) for phase in recipe.phases)
        self.warm: WarmStarts | None = None
        self.narrow: torch.dtype | None = None
        self._begin(0)

    def _whole(self, steps_per_epoch: int) -> Plan:
        """All of the recipe's epochs, evenly; one that only the clock limits is planned by its budget."""
        return Plan(max(1, self.recipe.epochs) * steps_per_epoch, steps_per_epoch)

    def _begin(self, phase: int) -> None:
        """Goes over to a phase: vectors of images are kept from now on, or no longer."""
        room = self.rooms[phase]
        self._enter(phase)
        self.warm = None if room is None else self.warm or room.starts()

    def _enter(self, phase: int) -> None:
        self.phase = phase
        self.objective = Objective(self.program, self.recipe.phases[phase], self.weights.leaves)
        self.model = self.team.wrapped(self.objective)
        self.compute_in(self.narrow)
        self.unmasked = self._unmasked()

    def compute_in(self, narrow: torch.dtype | None) -> None:
        """From now on the network's products have this format in every phase that propagates no bounds."""
        self.narrow = narrow
        self.objective.narrow = narrow if self.objective.needs_no_pass else None

    @contextmanager
    def _visited(self, phase: int) -> Iterator[None]:
        """The objective of a phase for a while; images start anywhere in one that has not begun."""
        names = ("phase", "objective", "model", "unmasked")
        before = {name: getattr(self, name) for name in names}
        if phase != self.phase:
            self._enter(phase)
        try:
            yield
        finally:
            vars(self).update(before)

    def _room(self, recipe: Recipe) -> Room | None:
        """Room for a vector of each image and layer, in a phase that keeps them. Raises InvalidInput where none is."""
        local = method_of(recipe).balls is Balls.LOCAL
        if not (local and recipe.start is Start.SAVED and iterated(self.program)):
            return None
        return Room.of(self.program, len(self.data), recipe.warm_type, recipe.warm_place)

    def _unmasked(self) -> dict[Term, Tensor]:
        """Singular vectors of the whole maps as they are now, where the method needs them."""
        if self.objective.method.balls in (None, Balls.BOX):
            return {}
        with torch.no_grad():
            solver, composed = PowerIteration(tolerance=1e-3, cap=1000), self.objective.composed
            return global_bound(self.program, solver, seed=self.recipe.seed, composed=composed).vectors

    @property
    def _terms(self) -> list[Term]:
        """Those of which a vector is kept, in order."""
        composed = self.objective.composed
        looped = () if composed is None else (t for maps in composed.maps.values() for t in maps.values())
        return [t for t in (*iterated(self.program), *looped) if t in self.unmasked]

    @property
    def done(self) -> bool:
        return self.step >= self.plan.steps

    @property
    def epoch(self) -> int:
        """Epochs finished."""
        return self.step // self.plan.steps_per_epoch

    @property
    def between_epochs(self) -> bool:
        return self.step % self.plan.steps_per_epoch == 0

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        return self.plan.at(self.step)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Counts what is done within as time of the run."""
        began = self.clock()
        yield
        self.seconds += self.clock() - began

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Counts what is done within as time of the run, but not of an epoch's steps."""
        before = self.seconds
        with self.timed():
            yield
        self.epoch_began += self.seconds - before

    def train_step(self) -> None:
        """One step of the optimiser. Raises Diverged, with the weights as they were, where a number is not finite."""
        with self.timed():
            self._step()

    def _step(self) -> None:
        phase = self.schedule.phase(self.progress)
        if phase != self.phase:
            self._begin(phase)
        places = self._places()
        with full_precision():
            measures = self._measured(places, self.progress)
            self._check(self._gradient(measures.loss), measures.loss)
        self._set_rate(self.progress)
        self.optimiser.step()
        self.weights.project()
        self.weights.refresh()
        self._take_average()
        if self.warm is not None:
            self.warm.store(places, measures.vectors)
        self.unmasked = improved(measures.unmasked) or self.unmasked
        parts = [getattr(measures, part).detach().double() for part in _PARTS]
        self.sums += torch.stack([*parts, torch.ones_like(parts[0])])
        self.step += 1

    @torch.no_grad()
    def _take_average(self) -> None:
        """A plain mean of the first steps, then an exponential one."""
        share = max(1 / (self.step + 1), 1 - self.recipe.average)
        for name, mean in self.average.items():
            mean.lerp_(self.moved[name].detach(), share)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the last ones, where the recipe averages."""
        last = {name: self.moved[name].detach().clone() for name in self.average}
        self._put(self.average)
        try:
            yield
        finally:
            self._put(last)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.moved[name].copy_(value)
        if values:
            self.weights.refresh()

    def _places(self) -> Tensor:
        """The next batch, as positions in this process's data."""
        every = _order(self.recipe.seed, self.epoch, len(self.data), self.team.rank)
        begin = self.step % self.plan.steps_per_epoch * self.batch
        return every[begin : begin + self.batch]

    def _measured(self, places: Tensor, progress: float) -> Measures:
        """The measures of some images, with the radius and kappa of a share of the run."""
        images, labels = self.data.batch(places)
        images = self.augmentation(images, seed=self.recipe.seed + 7919 * self.team.rank, step=self.step)
        images = images.to(self.program.dtype)
        radius, kappa = self.schedule.radius(progress), self.schedule.kappa(progress)
        seed = generator("start", seed=self.recipe.seed, number=self.step).initial_seed() >> 2
        saved = self.warm.load(places, self.unmasked, seed) if self.warm is not None and radius > 0 else {}
        measures: Measures = self.model(images, labels, radius, kappa, self.unmasked, saved, seed)
        return measures

    def _gradient(self, loss: Tensor) -> Tensor:
        """The length of the gradient, which is then in place; cut to the recipe's limit."""
        for leaf in (*self.weights.leaves.values(), *self.moved.values()):
            leaf.grad = None
        loss.backward()
        self.weights.pull_back()
        limit = self.recipe.clip_gradient or math.inf
        return torch.nn.utils.clip_grad_norm_(list(self.moved.values()), limit)

    def _check(self, gradient: Tensor, loss: Tensor) -> None:
        finite = bool(torch.isfinite(gradient) & torch.isfinite(loss))
        if self.team.any(not finite, self.program.device):
            raise Diverged(
                f"training diverged in step {self.step + 1} (epoch {self.epoch + 1}): the loss is "
                f"{float(loss.detach()):g}, its gradient's length {float(gradient):g}; {_ADVICE}"
            )

    def check_norm(self, epoch: Epoch) -> None:
        """Raises Diverged where the global bound that an epoch ended with is out of all proportion."""
        bound = 0.0 if epoch.held_out is None else epoch.held_out.global_lipschitz
        if self.team.any(bound is None or not bound < _HOPELESS, self.program.device):
            raise Diverged(
                f"training diverged by epoch {epoch.epoch}: the global Lipschitz bound is {bound}; {_ADVICE}"
            )

    def cost(self, progress: float) -> float:
        """Seconds that loss and gradient of a step take at some share of the run; nothing is moved."""
        places, taken = self._places(), []
        with self.aside(), self._visited(self.schedule.phase(progress)), full_precision():
            for _ in range(3):
                began = self.clock()
                self._gradient(self._measured(places, progress).loss).item()
                taken.append(self.clock() - began)
        return sum(taken[1:]) / len(taken[1:])  # the first one allocates

    def record(self, watch: Watch | None) -> Epoch:
        """What the epoch was like that ended, or that the run ends in, and what the watch sees now; sums start anew."""
        train, before = self._trained() if self.step else None, self.seconds
        with self.timed(), self.averaged():
            held_out = watch(self.unmasked) if watch is not None else None
        if watch is not None:
            self.look = self.seconds - before
        self.sums.zero_()
        self.epoch_began = self.seconds
        at = self.plan.at(self.step - 1)
        return Epoch(
            epoch=math.ceil(self.step / self.plan.steps_per_epoch),
            step=self.step,
            seconds=self.seconds,
            eps=self.schedule.radius(at),
            kappa=self.schedule.kappa(at),
            rate=self.schedule.rate(at),
            train=train,
            held_out=held_out,
        )

    def _trained(self) -> Train:
        steps = int(self.sums[-1])
        means = [finite(v) for v in self.team.mean(self.sums[:-1] / steps).tolist()]
        spent = max(self.seconds - self.epoch_began, 1e-9)
        speed = steps * self.batch * self.team.size / spent
        return Train(**dict(zip(_PARTS, means, strict=True)), images_per_second=speed)

    def state(self) -> dict[str, Any]:
        """Everything that a continued run needs to go on bit for bit; without vectors of images, unless asked."""
        return {
            "step": self.step,
            "epochs": self.recipe.epochs,
            "minutes": self.recipe.minutes,
            "plan": [self.plan.steps, self.plan.done, self.plan.progress],
            "phase": self.phase,
            "seconds": self.seconds,
            "look": self.look,
            "epoch_began": self.epoch_began,
            "sums": self.sums,
            "weights": {name: leaf.detach() for name, leaf in self._stored().items()},
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "narrow": self.narrow is not None,
            "unmasked": [self.unmasked[t] for t in self._terms],
            "warm": self.warm.state() if self.warm is not None and self.recipe.keep_vectors else None,
        }

    def _stored(self) -> dict[str, Tensor]:
        return {**self.weights.leaves, **self.moved}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` returned, in place; the recipe may ask for a longer run.

        Raises InvalidInput for what another run returned, and for a recipe that asks for less than is done.
        """
        with reading("checkpoint", "state of this run; start again with --overwrite"):
            self.step, self.seconds, self.look = int(state["step"]), float(state["seconds"]), float(state["look"])
            self.epoch_began = float(state["epoch_began"])
            if not math.isfinite(self.seconds + self.epoch_began + self.look):
                raise ValueError("times out of range")
            self._restore_plan(state)
            phase = int(state["phase"])
            if phase not in range(len(self.recipe.phases)):
                raise ValueError("a phase that the recipe has not")
            if phase != self.phase:
                self._begin(phase)
            _take(self.sums, state["sums"])
            for name, leaf in self._stored().items():
                _take(leaf, state["weights"][name])
            for name, mean in self.average.items():
                _take(mean, state["average"][name])
            self._restore_optimiser(state["optimiser"]["state"])
            self.compute_in(torch.bfloat16 if bool(state["narrow"]) else None)
            for term, vector in zip(self._terms, state["unmasked"], strict=True):
                _take(self.unmasked[term], vector)
            if self.warm is not None and state["warm"] is not None:
                self.warm.restore(state["warm"])

    def _restore_plan(self, state: Mapping[str, Any]) -> None:
        """The plan as it was, or with another end, where the recipe has one."""
        steps, done, progress = int(state["plan"][0]), int(state["plan"][1]), float(state["plan"][2])
        if not (0 <= done <= self.step <= steps and steps >= 1 and 0 <= progress <= 1):
            raise ValueError("a plan out of range")
        plan = Plan(steps, self.plan.steps_per_epoch, done, progress)
        length = float(state["epochs"]), float(state["minutes"])
        self.plan = plan if length == (self.recipe.epochs, self.recipe.minutes) else self._extended(plan)

    def _extended(self, plan: Plan) -> Plan:
        """The plan with the recipe's end. One that was over begins again at the share of the whole that is done."""
        recipe, per_epoch = self.recipe, self.plan.steps_per_epoch
        steps, seconds = recipe.epochs * per_epoch, 60 * recipe.minutes
        progress = plan.at(self.step)
        if steps and (steps < self.step or (steps == self.step and progress < 1)):
            raise InvalidInput(f"--epochs {recipe.epochs}: {self.step / per_epoch:g} are done; {_MORE}")
        if seconds and seconds <= self.seconds:
            raise InvalidInput(f"--minutes {recipe.minutes:g}: {self.seconds / 60:.1f} are over; {_MORE}")
        if progress == 1:
            progress = max(self.step / steps if steps else 0.0, self.seconds / seconds if seconds else 0.0)
        return Plan(steps or self.step + 1, per_epoch, self.step, progress)

    def _restore_optimiser(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Adam's moments; its settings are the recipe's."""
        if not set(state) <= set(range(len(self.moved))):
            raise ValueError("moments of other weights")
        for number, leaf in enumerate(self.moved.values()):
            for name, moment in state.get(number, {}).items():
                if moment.shape not in (leaf.shape, torch.Size(())):
                    raise ValueError(f"{name} of {list(moment.shape)} for {list(leaf.shape)}")
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        self._set_rate(self.plan.at(self.step - 1))

    def _set_rate(self, progress: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate(progress)


def _take(own: Tensor, other: Tensor) -> None:
    if own.shape != other.shape:
        raise ValueError(f"a value of {list(other.shape)} in place of {list(own.shape)}")
    own.copy_(other)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int, rank: int) -> Tensor:
    return order(seed=seed + rank * 104729, epoch=epoch, count=count)
