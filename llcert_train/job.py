"""A training run from what was asked to a trainer that is ready to go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llcert.api import file_sha256, from_torch, load
from llcert.bounds.liplt import Composed
from llcert.certify import Settings
from llcert.data import NAMED, Dataset, load_dataset
from llcert.data.dataset import subset
from llcert.data.store import Progress
from llcert.errors import InvalidInput
from llcert.frontend.adapt import adapt
from llcert.ir import Network, copied
from llcert.options import Options
from llcert.program import lower
from llcert.runs.resolve import device_of, settings_of, with_metadata
from llcert_train import zoo
from llcert_train.augment import Augmentation
from llcert_train.clip import clipped, folded, with_maxmin
from llcert_train.data import TrainingData, order, split_path, stratified
from llcert_train.objective import Margin, method_of
from llcert_train.schedules import Schedule
from llcert_train.settings import Activation, BatchNorm, Granularity, Loss, Recipe, positive_eps
from llcert_train.team import Team
from llcert_train.trainer import Trainer
from llcert_train.watch import Watch
from llcert_train.weights import Weights

_MOST_LOST = 0.005
"""Share of the training images whose class surgery may change for the worse."""

_PHOTOGRAPHS = ("cifar10", "tiny-imagenet")

_CLIPPED_ON, _COLOURS, _CHUNK = 2048, 5000, 256


@dataclass(frozen=True)
class Task:
    """What is trained, on what, where. model: a file, or None for a new network of the recipe's architecture.

    test_data: a path, beside a path of training data. mean, std, layout: of the images in front of the network. stages,
    assurance: of the certification at the end, by default those of every certification.
    """

    model: Path | None
    test_data: str | None = None
    data_root: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: str | None = None
    device: str | None = None
    stages: tuple[str, ...] | None = None
    assurance: str | None = None

    def filled(self, stored: Mapping[str, Any]) -> Task:
        """The task, its gaps filled from what an earlier run was asked. Raises InvalidInput for what no run wrote."""
        for name, value in stored.items():
            if name not in self.to_json() or not _sayable(name, value):
                raise InvalidInput(
                    f"--resume: {name[:40]!r} was not written by llcert's training; choose another folder"
                )
        gaps = {k: v for k, v in stored.items() if getattr(self, k) is None}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in gaps.items()}
        return dataclasses.replace(self, **values)

    def to_json(self) -> dict[str, Any]:
        """What was said, but for the model, whose content counts and not its place."""
        said = {k: v for k, v in dataclasses.asdict(self).items() if k != "model"}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in said.items()}


_LISTS: Mapping[str, tuple[type, ...]] = {"mean": (int, float), "std": (int, float), "stages": (str,)}
"""Fields of a task that hold several values, and of which types."""


def _sayable(name: str, value: object) -> bool:
    """Whether a field of a task can hold a JSON value."""
    if value is None or name not in _LISTS:
        return value is None or isinstance(value, str)
    return isinstance(value, list) and all(type(v) in _LISTS[name] for v in value)


@dataclass(frozen=True)
class Job:
    """A run ready to go. eps_text: as written. identity: what a run that is continued must agree with."""

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


def prepare(task: Task, recipe: Recipe, *, team: Team | None = None, progress: Progress | None = None) -> Job:
    """The run that a task and a recipe describe; what the recipe leaves open comes from the model's metadata.

    progress: wraps downloads of data. Raises InvalidInput in one line for whatever cannot be done.
    """
    device = device_of(task.device)
    network = None if task.model is None else load(task.model)
    options = _options(task, recipe, network)
    asked = settings_of(options, _subject(task, recipe))  # what certifies at the end is refused now, not then
    train, test = _datasets(options, task, recipe.seed, progress)
    said, recipe = recipe, _augmented(recipe, options.data)
    Augmentation.of(recipe).check((1, *train.image_shape))
    if network is None:
        network = _built(recipe, train)
    _check_labels(network, train, test)
    if recipe.sparsity and all(phase.loss is Loss.STANDARD for phase in recipe.phases):
        raise InvalidInput(
            "sparsity: the standard loss computes no bounds, which eq. 12 is about; choose another --loss"
        )
    eps = positive_eps(str(options.eps))
    kept, held = _parts(train, recipe)
    fit = _fitting(options, train)
    network, notes = (network, ()) if task.model is None else _operated(network, kept, recipe, fit)
    weights = Weights.of(network, device)
    if recipe.orthogonal:
        weights = weights.orthogonal(recipe.seed)
    adapted, front = fit(weights.network)
    program = lower(adapted, device, network.dtype)
    team = team or Team()
    data = TrainingData.of(subset(kept, team.shard(len(kept)).numpy(), "train"), device)
    trainer = Trainer(weights, program, recipe, Schedule(recipe, eps), data, team)
    images, labels = TrainingData.of(held, device).batch(torch.arange(len(held)))
    pairs = any(method_of(phase).margin is Margin.PAIRS for phase in recipe.phases)
    composed = trainer.objective.composed or (Composed.of(program) if pairs else None)
    local = not all(method_of(phase).plain for phase in recipe.phases)
    watch = Watch(program, images.to(program.dtype), labels, eps, recipe.attack_steps, recipe.seed, composed, local)
    warm = [room.sentence for room in trainer.rooms if room is not None][:1]
    identity = _identity(task, options, asked, train, trainer.team)
    moved = (
        (f"training images are cropped by {recipe.crop} pixels and mirrored",) if recipe.crop and recipe.flip else ()
    )
    return Job(trainer, watch, test, options, said, identity, (*front, *notes, data.sentence, *moved, *warm))


def _augmented(recipe: Recipe, data: str | None) -> Recipe:
    """What the recipe leaves open of crops and flips, as the data set has it: photographs may be moved and mirrored."""
    crop, flip = (4, True) if data in _PHOTOGRAPHS else (0, False)
    return recipe.changed(
        {
            "crop": crop if recipe.crop is None else recipe.crop,
            "flip": flip if recipe.flip is None else recipe.flip,
        }
    )


def _options(task: Task, recipe: Recipe, network: Network | None) -> Options:
    """What was asked, its gaps filled by the model's metadata; data and eps are known afterwards."""
    options = Options(
        eps=recipe.eps or None,
        data=recipe.data or None,
        data_root=task.data_root,
        mean=task.mean,
        std=task.std,
        layout=task.layout,
        device=task.device,
        stages=task.stages,
        assurance=task.assurance,
    )
    if network is not None:
        options = with_metadata(options, network)
    subject = _subject(task, recipe)
    if options.data is None:
        raise InvalidInput(f"{subject} names no data: give --data ({', '.join(NAMED)}, or a path)")
    if options.eps is None:
        raise InvalidInput(f"{subject} names no eps: give --eps, an L2 radius in pixel units such as 36/255")
    return options


def _subject(task: Task, recipe: Recipe) -> str:
    """What errors call the thing that is trained."""
    return str(task.model or recipe.arch or "the recipe")


def _datasets(options: Options, task: Task, seed: int, progress: Progress | None) -> tuple[Dataset, Dataset]:
    """Training and test images."""
    name, root = options.data or "", None if task.data_root is None else Path(task.data_root)
    if name in NAMED:
        if task.test_data is not None:
            raise InvalidInput(f"--test-data: {name} has a test set of its own; leave the option out")
        train, test = (load_dataset(name, split=s, root=root, progress=progress) for s in ("train", "test"))
        return train, test
    whole = load_dataset(name)
    if task.test_data is None:
        return split_path(whole, seed)
    return whole, load_dataset(task.test_data, split="test", root=root, progress=progress)


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
    images, _ = _some(train, _COLOURS, seed)
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


def _some(train: Dataset, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images and labels, so many of them at random."""
    chosen = order(seed=seed, epoch=-1, count=len(train))[:count]
    data = TrainingData.of(subset(train, chosen.numpy(), "train"), torch.device("cpu"))
    return data.batch(torch.arange(len(chosen)))


Fit = Callable[[Network], tuple[Network, tuple[str, ...]]]


def _fitting(options: Options, train: Dataset) -> Fit:
    """How images get in front of a network."""

    def fit(network: Network) -> tuple[Network, tuple[str, ...]]:
        return adapt(network, train.image_shape, layout=options.layout, mean=options.mean, std=options.std)

    return fit


def _operated(network: Network, train: Dataset, recipe: Recipe, fit: Fit) -> tuple[Network, tuple[str, ...]]:
    """The network after surgery, and what that did to it."""
    if recipe.activation not in list(Activation):
        raise InvalidInput(f"activation {recipe.activation[:40]!r}: choose {', '.join(Activation)}")
    if recipe.orthogonal:
        raise InvalidInput("orthogonal: only new networks can have orthogonal weights; use llcert train")
    before = network
    if recipe.batch_norm is BatchNorm.FOLD:
        network = folded(network)
    if recipe.activation == Activation.KEEP:
        return network, ()
    if recipe.activation in (Activation.MAXMIN, Activation.MAXMIN_CLIPPED):
        network = with_maxmin(network)
    front = fit(dataclasses.replace(before, output=before.input))[0]
    images, labels = _some(train, _CLIPPED_ON, recipe.seed)
    entering = [front(part) for part in images.to(network.dtype).split(_CHUNK)]
    if recipe.activation == Activation.MAXMIN:
        return network, (_cost_of_surgery(recipe.activation, before, network, entering, labels),)
    return _clipped(before, network, entering, labels, recipe)


def _clipped(
    before: Network, network: Network, entering: list[Tensor], labels: Tensor, recipe: Recipe
) -> tuple[Network, tuple[str, ...]]:
    """With thresholds that hardly any image reaches; out of reach of all of them where that would cost accuracy."""
    per_channel = recipe.per is Granularity.CHANNEL
    old = _accuracy(network, entering, labels)
    for quantile in (recipe.quantile, 1.0):
        result = clipped(network, entering, quantile=quantile, per_channel=per_channel)
        new = _accuracy(result, entering, labels)
        if new >= old - _MOST_LOST:
            break
    return result, (_cost_of_surgery(f"{recipe.activation}, quantile {quantile:g}", before, result, entering, labels),)


def _cost_of_surgery(words: str, before: Network, after: Network, entering: list[Tensor], labels: Tensor) -> str:
    """A line for the user."""
    old, new = (100 * _accuracy(network, entering, labels) for network in (before, after))
    return f"surgery ({words}): clean accuracy on {len(labels):,} training images {old:.1f} % before, {new:.1f} % after"


@torch.no_grad()
def _accuracy(network: Network, batches: list[Tensor], labels: Tensor) -> float:
    right = torch.cat([network(part).argmax(1) for part in batches]) == labels
    return float(right.double().mean())


def _identity(task: Task, options: Options, asked: Settings, train: Dataset, team: Team) -> dict[str, Any]:
    """What must be the same for a run to be continued, besides the recipe."""
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
        "stages": list(asked.stages),
        "assurance": asked.assurance.value,
    }


def _listed(values: tuple[float, ...] | None) -> str | None:
    return None if values is None else ",".join(f"{v!r}" for v in values)
