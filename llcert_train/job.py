"""A training run from what was asked to a trainer that is ready to go."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llcert.bounds.liplt import Composed
from llcert.data import NAMED, Dataset, select
from llcert.data.dataset import subset
from llcert.errors import InvalidInput
from llcert.frontend.adapt import adapt
from llcert.frontend.load import from_torch
from llcert.ir import Network, copied
from llcert.machine.files import file_sha256
from llcert.options import Options
from llcert.program import lower
from llcert.runs.resolve import device_of
from llcert_train import zoo
from llcert_train.augment import Augmentation
from llcert_train.data import TrainingData, some_images, stratified
from llcert_train.objective import Margin, method_of
from llcert_train.schedules import Schedule
from llcert_train.settings import Activation, Loss, Recipe, positive_eps
from llcert_train.surgery import Fit, operated
from llcert_train.task import Resolved
from llcert_train.team import Team
from llcert_train.trainer import Trainer
from llcert_train.watch import Watch
from llcert_train.weights import Weights

_AUGMENTED = ("cifar10", "tiny-imagenet")
"""The data sets whose images are cropped and mirrored unless a recipe says otherwise."""

_COLOURS = 5000


@dataclass(frozen=True)
class Job:
    """A run ready to go. identity: what a run that is continued must agree with."""

    trainer: Trainer
    watch: Watch
    test: Dataset
    options: Options
    recipe: Recipe
    identity: dict[str, Any]
    notes: tuple[str, ...] = field(default=())

    def network(self) -> Network:
        """The network as it is now, to be saved: it carries what is needed to certify it.

        Its weights are shared with the trainer, but for those that are averaged, which are copies.
        """
        said = self.options
        known = {
            "eps": str(said.eps),
            "data": said.data if said.data in NAMED else None,
            "mean": _listed(said.mean),
            "std": _listed(said.std),
            "layout": said.layout,
        }
        network = self.trainer.weights.network
        if self.recipe.average:
            with self.trainer.averaged():
                network = dataclasses.replace(network, output=copied(network.output))
        metadata = {**network.metadata, **{k: v for k, v in known.items() if v is not None}}
        if known["data"] is None:
            metadata.pop("data", None)
        return dataclasses.replace(network, metadata=metadata)


def prepare(resolved: Resolved, data: tuple[Dataset, Dataset], *, team: Team | None = None) -> Job:
    """The run that a task and a recipe describe. data: training and test images, as `Resolved.datasets` has them.

    Raises InvalidInput in one line for whatever cannot be done.
    """
    (train, test), options, said = data, resolved.options, resolved.recipe
    device, team = device_of(resolved.task.device), team or Team()
    recipe = _augmented(said, options.data)
    Augmentation.of(recipe).check((1, *train.image_shape))
    network = _built(recipe, train) if resolved.network is None else resolved.network
    _check_labels(network, train, test)
    select(options.samples, len(test))  # refused now rather than after the training
    if recipe.sparsity and all(phase.loss is Loss.STANDARD for phase in recipe.phases):
        raise InvalidInput(
            "sparsity: the standard loss computes no bounds, which eq. 12 is about; choose another --loss"
        )
    eps = positive_eps(str(options.eps))
    kept, held = _parts(train, recipe)
    fit = _fitting(options, train)
    network, notes = (network, ()) if resolved.network is None else operated(network, kept, recipe, fit)
    weights = Weights.of(network, device)
    if recipe.orthogonal:
        weights = weights.orthogonal(recipe.seed)
    adapted, front = fit(weights.network)
    program = lower(adapted, device, network.dtype)
    images = TrainingData.of(subset(kept, team.shard(len(kept)).numpy(), "train"), device)
    trainer = Trainer(weights, program, recipe, Schedule(recipe, eps), images, team)
    watch = _watch(trainer, TrainingData.of(held, device), eps)
    warm = [room.sentence for room in trainer.rooms if room is not None][:1]
    identity = _identity(resolved, train, team)
    moved = (
        (f"training images are cropped by {recipe.crop} pixels and mirrored",) if recipe.crop and recipe.flip else ()
    )
    return Job(trainer, watch, test, options, said, identity, (*front, *notes, images.sentence, *moved, *warm))


def _watch(trainer: Trainer, held: TrainingData, eps: float) -> Watch:
    """What looks at the images that were kept aside, at the full radius."""
    images, labels = held.batch(torch.arange(len(held)))
    program, recipe = trainer.program, trainer.recipe
    pairs = any(method_of(phase).margin is Margin.PAIRS for phase in recipe.phases)
    composed = trainer.objective.composed or (Composed.of(program) if pairs else None)
    local = not all(method_of(phase).needs_no_pass for phase in recipe.phases)
    return Watch(program, images.to(program.dtype), labels, eps, recipe.attack_steps, recipe.seed, composed, local)


def _augmented(recipe: Recipe, data: str | None) -> Recipe:
    """What the recipe leaves open of crops and flips, by the data set."""
    crop, flip = (4, True) if data in _AUGMENTED else (0, False)
    return recipe.changed(
        {
            "crop": crop if recipe.crop is None else recipe.crop,
            "flip": flip if recipe.flip is None else recipe.flip,
        }
    )


def _built(recipe: Recipe, train: Dataset) -> Network:
    """A new network of the zoo."""
    for name in ("quantile", "per", "batch_norm"):
        if getattr(recipe, name) != getattr(Recipe(), name):
            raise InvalidInput(f"{name}: only networks that are imported have it; new ones have --threshold")
    kind = zoo.ActivationKind.RELU if recipe.activation == Activation.KEEP else recipe.activation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        module = zoo.build(
            recipe.arch,
            input_shape=train.image_shape,
            classes=train.class_count,
            activation=kind,
            threshold=recipe.threshold,
            mean=_mean_colour(train, recipe.seed) if recipe.centre else None,
            initial=recipe.initial,
        )
    network = from_torch(module, torch.zeros(1, *train.image_shape))
    return dataclasses.replace(network, source=recipe.arch, input_name="image", output_name="logits")


def _mean_colour(train: Dataset, seed: int) -> Tensor:
    """Of a few thousand training images, `[channels, 1, 1]`; one number for images without channels."""
    images, _ = some_images(train, _COLOURS, seed)
    axes = (0, 2, 3) if images.ndim == 4 else tuple(range(images.ndim))
    return images.double().mean(axes, keepdim=True)[0].float()


def _check_labels(network: Network, train: Dataset, test: Dataset) -> None:
    for dataset in (train, test):
        # a path counts the classes it happens to hold, and a small test set may lack the last
        fewer = dataset.class_count < network.classes and dataset is train
        if dataset.class_count > network.classes or fewer:
            raise InvalidInput(
                f"{network.source}: {network.classes} outputs, but {dataset.name} ({dataset.split}) has "
                f"{dataset.class_count} classes; train on data whose labels are the network's"
            )
    if train.image_shape != test.image_shape:
        raise InvalidInput(
            f"{test.name} ({test.split}) holds images of {list(test.image_shape)}, {train.name} of "
            f"{list(train.image_shape)}"
        )


def _parts(train: Dataset, recipe: Recipe) -> tuple[Dataset, Dataset]:
    """The images trained on, and those kept aside to watch."""
    share = min(recipe.held_out / len(train), 0.5)
    kept, held = stratified(train.labels, share, recipe.seed)
    if not len(held):
        raise InvalidInput(f"{train.name}: no class holds two images, so none can be kept aside; add more")
    return subset(train, kept, "train"), subset(train, held, "held out")


def _fitting(options: Options, train: Dataset) -> Fit:
    """How images get in front of a network."""

    def fit(network: Network) -> tuple[Network, tuple[str, ...]]:
        return adapt(network, train.image_shape, layout=options.layout, mean=options.mean, std=options.std)

    return fit


def _identity(resolved: Resolved, train: Dataset, team: Team) -> dict[str, Any]:
    """What must be the same for a run to be continued, besides the recipe."""
    task, options, settings = resolved.task, resolved.options, resolved.settings
    return {
        "model_sha256": None if task.model is None else file_sha256(task.model),
        "data": options.data,
        "test_data": task.test_data,
        "eps": options.eps,
        "mean": list(options.mean or ()),
        "std": list(options.std or ()),
        "layout": options.layout,
        "data_sha256": train.sha256(range(len(train))),
        "processes": team.size,
        "samples": options.samples,
        "stages": list(settings.stages),
        "assurance": settings.assurance.value,
    }


def _listed(values: tuple[float, ...] | None) -> str | None:
    return None if values is None else ",".join(f"{v!r}" for v in values)
