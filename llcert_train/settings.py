"""What a training run is asked to do: one frozen dataclass, a documented field a line. Cheap to import."""

from __future__ import annotations

import dataclasses
import enum
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llcert.errors import InvalidInput
from llcert.options import declaration
from llcert.options.declaration import checked, declaration_of, json_value, option
from llcert.options.text import parse_eps


class Activation(enum.StrEnum):
    """What becomes of a network's activations before training."""

    RELU_THETA = "relu-theta"  # ReLU gets a threshold (eq. 8), MaxMin two
    MAXMIN = "maxmin"  # ReLU becomes MaxMin
    MAXMIN_CLIPPED = "maxmin-clipped"  # the same, and MaxMin gets its thresholds
    KEEP = "keep"  # as they are


class Loss(enum.StrEnum):
    """The rows of the paper's Table 2 that one trainer covers, and later losses."""

    STANDARD = "standard"
    IBP = "ibp"
    LMT = "lmt"
    GLORO = "gloro"
    BCP = "bcp"
    LOCAL_LIP_G = "local-lip-g"
    LOCAL_LIP_B = "local-lip-b"
    EMMA = "emma"
    LOGIT_ANNEALING = "logit-annealing"
    PAIRWISE = "pairwise"
    CRM = "crm"
    CROWN = "crown"


class Ball(enum.StrEnum):
    """Where the radius of the hidden values comes from, in place of what the loss has by itself."""

    GLOBAL = "global"  # from the global bound
    PRODUCT = "product"  # the same, and nothing else is looked at: no boxes
    LIPLT = "liplt"  # nothing but a constant for each pair of classes
    LOCAL = "local"


class Decay(enum.StrEnum):
    """How the rate falls."""

    EXPONENTIAL = "exponential"
    COSINE = "cosine"


class Start(enum.StrEnum):
    """Where the power iterations of a training step begin (Table 1)."""

    SAVED = "saved"
    RANDOM = "random"


class Precision(enum.StrEnum):
    """Of the products in the network's forward and backward pass where a step propagates no bounds along with them."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    AUTO = "auto"  # the faster one, measured when a run begins


class Initial(enum.StrEnum):
    """Where the weights of a new network start."""

    KAIMING = "kaiming"
    ORTHOGONAL = "orthogonal"


class Granularity(enum.StrEnum):
    """How many thresholds an activation gets."""

    NEURON = "neuron"
    CHANNEL = "channel"


class BatchNorm(enum.StrEnum):
    """What becomes of batch normalisation, whose statistics stay as they are in either case."""

    KEEP = "keep"
    FOLD = "fold"


class WarmPlace(enum.StrEnum):
    """Where saved singular vectors lie."""

    AUTO = "auto"
    DEVICE = "device"
    HOST = "host"


class WarmType(enum.StrEnum):
    """The precision that saved singular vectors are kept in."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "arch": "What is trained",
        "loss": "Objective",
        "epochs": "Schedule",
        "start": "Power iteration",
        "held_out": "Watching and saving",
    }
)
"""The groups of a recipe's fields, each by its first field."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is trained; the same words in TOML files and, with dashes, as options.

    Shares are of the whole run, so that a recipe with fewer epochs has the same shape.
    Raises InvalidInput where a value has the wrong type or lies outside its range.
    """

    # what is trained on what; the command line may leave them to the model file
    arch: str = option("", "A network of the zoo, for llcert train.")
    data: str = option("", "Training data: a name, or a path.")
    eps: str = option("", "L2 radius in pixel units, 36/255 or 0.141.")
    activation: str = option("relu-theta", "relu-theta, maxmin, maxmin-clipped or keep; for llcert train also relu.")
    initial: Initial = option(Initial.KAIMING, "Weights of a new network: kaiming, or orthogonal (rows of norm one).")
    centre: bool = option(False, "A new network takes the mean colour of the training images off first.")
    threshold: float = option(2.0, "Where the thresholds of a new network start.", least=0)
    quantile: float = option(
        0.999, "Where those of an imported one start: this quantile of what the neuron does.", least=0.5, most=1
    )
    per: Granularity = option(Granularity.NEURON, "One threshold a neuron, or one a channel.")
    batch_norm: BatchNorm = option(BatchNorm.KEEP, "keep, or fold into the layer in front.")
    orthogonal: bool = option(False, "Make weights orthogonal by the Cayley transform (llcert train).")

    # the objective
    loss: Loss = option(Loss.LOCAL_LIP_B, ", ".join(Loss) + ".")
    ball: Ball | None = option(None, "global, product, liplt or local, in place of the bound that the loss comes with.")
    last_loss: Loss | None = option(None, "Of the end of the run, in place of loss: " + ", ".join(Loss) + ".")
    last_ball: Ball | None = option(None, "Of the end of the run: global, product, liplt or local; its own by default.")
    last_share: float = option(0.0, "Share of the run, at its end, with these; 0: none.", least=0, most=0.99)
    overshoot: float = option(1.1, "Radius trained at, in units of eps.", least=0, above=True)
    kappa: float = option(0.0, "Weight of the clean loss at the end of the ramp; 1 at its start.", least=0, most=1)
    sparsity: float = option(0.0, "Weight of the sparsity loss (eq. 12), a mean over neurons and images.", least=0)
    temperature: float = option(1.0, "Divides the logits in the loss.", least=0, above=True)
    annealing: float = option(5.0, "Exponent of logit annealing.", least=0)
    offset: float = option(2.0, "Handicap of the true logit under logit annealing.", least=0)
    radius_weight: float = option(15.0, "Weight of the radii under crm.", least=0)
    radius_limit: float = option(0.2, "Radius, in pixels, beyond which crm leaves an image alone.", least=0, above=True)
    radius_sharpness: float = option(5.0, "How much more the least radius counts under crm.", least=0, above=True)

    # the schedule
    epochs: int = option(60, "Passes over the training images, with --minutes at most; 0: as many as fit.", least=0)
    minutes: float = option(
        0.0, "Minutes of training and looks, without the certification at the end; 0: no limit.", least=0
    )
    warm_up: float = option(0.025, "Share of the run at radius 0.", least=0, most=1)
    ramp: float = option(0.5, "Share of the run after which radius and kappa have their last values.", least=0, most=1)
    batch: int = option(128, "Images a step.", least=1)
    rate: float = option(1e-3, "Adam's rate.", least=0, above=True, most=1e35)
    final_rate: float = option(1e-6, "Where it has fallen to at the end.", least=0, above=True, most=1e35)
    decay_from: float = option(0.5, "Share of the run after which it falls.", least=0, most=1)
    decay: Decay = option(Decay.EXPONENTIAL, "How it falls: exponential, or cosine (half a wave).")
    rate_warm_up: float = option(0.0, "Share of the run in which it rises from zero.", least=0, most=1)
    average: float = option(0.0, "What a mean of the weights keeps a step; 0: the last weights.", least=0, most=0.99999)
    clip_gradient: float = option(0.0, "Longest gradient of a step; 0: any.", least=0)
    crop: int | None = option(
        None, "Random crops after padding by so many pixels. Default: 4 for cifar10 and tiny-imagenet, else 0.", least=0
    )
    flip: bool | None = option(None, "Random horizontal flips. Default: for cifar10 and tiny-imagenet.")

    # the power iteration
    start: Start = option(
        Start.SAVED, "Where those of each image start: saved (a vector an image and layer) or random."
    )
    iterations: int = option(2, "Power iterations a step.", least=1)
    warm_type: WarmType = option(WarmType.FLOAT16, "Precision of saved vectors: float16, bfloat16 or float32.")
    warm_place: WarmPlace = option(WarmPlace.AUTO, "Where they lie: device, host, or auto, by what fits.")
    precision: Precision = option(
        Precision.FLOAT32, "Of the network in steps on a global ball: float32, bfloat16 or auto (what is faster)."
    )
    mixed: bool = option(False, "Find directions in bfloat16; norms stay in full precision.")

    # watching and saving
    held_out: int = option(256, "Training images kept aside to watch the run with.", least=1)
    evaluate: int = option(1, "Epochs between two looks at them.", least=1)
    attack_steps: int = option(20, "PGD steps of such a look.", least=1)
    checkpoint: float = option(5.0, "Minutes between two checkpoints.", least=0)
    keep_vectors: bool = option(False, "Keep vectors of images in checkpoints too, which makes them large.")
    seed: int = option(0, "Of everything random.", least=0, most=2**31 - 1)

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            object.__setattr__(self, f.name, _checked(f, getattr(self, f.name)))
        if self.eps:
            positive_eps(self.eps)
        if self.warm_up > self.ramp:
            raise InvalidInput(f"ramp {self.ramp:g} ends before warm-up {self.warm_up:g} does")
        if not (self.epochs or self.minutes):
            raise InvalidInput("epochs 0: give at least 1, or --minutes to fill")
        self._check_phases()

    def _check_phases(self) -> None:
        named = self.last_loss is not None or self.last_ball is not None
        if named and not self.last_share:
            name = "last_ball" if self.last_loss is None else "last_loss"
            raise InvalidInput(f"{name} {getattr(self, name)}: give a last_share above 0, of the run that it ends")
        if self.last_share and not named:
            raise InvalidInput(f"last_share {self.last_share:g}: name a last_loss or a last_ball to train with")
        if named and (self.last_loss or self.loss, self.last_ball) == (self.loss, self.ball):
            raise InvalidInput(
                "last_loss, last_ball: are those of the whole run; name others, or leave last_share at 0"
            )

    @property
    def phases(self) -> tuple[Recipe, ...]:
        """The recipe of each phase of the run; they differ in loss and ball."""
        if not self.last_share:
            return (self,)
        loss = self.last_loss or self.loss
        none: dict[str, Any] = {"last_loss": None, "last_ball": None, "last_share": 0.0}
        return self, dataclasses.replace(self, loss=loss, ball=self.last_ball, **none)

    def changed(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe with other values of some fields; None changes nothing.

        The length is one thing said in two ways: epochs alone lift a limit of minutes, minutes alone one of epochs.
        Another loss without a ball has its own. A last_share of 0 takes its loss and ball with it.
        """
        given = {k: v for k, v in values.items() if v is not None}
        if given.get("loss", self.loss) != self.loss:
            given = {"ball": None, **given}
        if given.get("last_share") == 0:
            given = {"last_loss": None, "last_ball": None, **given}
        if "epochs" in given:
            given = {"minutes": 0.0, **given}
        elif given.get("minutes"):
            given = {"epochs": 0, **given}
        return dataclasses.replace(self, **given)

    def to_json(self) -> dict[str, Any]:
        """Every field as a plain value."""
        return {f.name: json_value(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def to_toml(self) -> str:
        """The recipe as a file that `read_recipe` reads; what is not set is left out."""
        lines = [f"{k} = {_toml(v)}" for k, v in self.to_json().items() if v is not None]
        return "\n".join(lines) + "\n"


def positive_eps(text: str) -> float:
    """The radius that the text stands for, above 0; InvalidInput for anything else."""
    value = parse_eps(text)
    if value <= 0:
        raise InvalidInput(f"eps {text[:40]!r}: training needs a radius above 0, in pixel units")
    return value


def recipe_names() -> tuple[str, ...]:
    """The recipes that come with the package."""
    folder = resources.files("llcert_train").joinpath("recipes")
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def read_recipe(name_or_path: str) -> Recipe:
    """The recipe of that name, or in that TOML file. Raises InvalidInput in one line where there is none."""
    if name_or_path in recipe_names():
        inside = resources.files("llcert_train").joinpath("recipes", f"{name_or_path}.toml")
        return _parsed(inside.read_bytes(), name_or_path)
    path = Path(name_or_path)
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "cannot be read"
        raise InvalidInput(
            f"recipe {name_or_path[:200]!r}: {reason}; choose {', '.join(recipe_names())}, or name a TOML file"
        ) from None
    return _parsed(content, str(path))


def shown_fields(recipe: str | None) -> dict[str, str]:
    """What help says of the fields in which a recipe differs from the defaults, by name; of none without a recipe."""
    default, own = Recipe().to_json(), (Recipe() if recipe is None else read_recipe(recipe)).to_json()
    return {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in own.items() if v != default[k]}


def _parsed(content: bytes, source: str) -> Recipe:
    try:
        values = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"recipe {source}: not a TOML file ({error})") from None
    known = {f.name for f in dataclasses.fields(Recipe)}
    for name in values:
        if name not in known:
            raise InvalidInput(f"recipe {source}: knows no {name[:40]!r}; it knows {', '.join(sorted(known))}")
    try:
        return Recipe().changed(values)
    except InvalidInput as error:
        raise InvalidInput(f"recipe {source}: {error}") from None


def kind_of(f: dataclasses.Field[Any]) -> type[Any]:
    """The type of a field's values: bool, int, float, str or an enum."""
    return declaration.kind_of(f, globals())


def _checked(f: dataclasses.Field[Any], value: Any) -> Any:
    """The value in the field's type; InvalidInput where it cannot be."""
    if value is None and f.default is None:
        return None
    return checked(f.name, declaration_of(f), kind_of(f), value)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):  # characters of more than 16 bits are pairs in JSON, which TOML refuses
        return '"' + "".join(json.dumps(c)[1:-1] if c <= "\uffff" else f"\\U{ord(c):08x}" for c in value) + '"'
    return repr(value)
