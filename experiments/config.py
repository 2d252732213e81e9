"""Typed configurations: what they hold, how a name finds one, how text becomes options.

A config is one module in experiments/configs/ with a docstring (its first line is what
`--list` shows) and `get_config()`, which returns a `RunConfig` or a `TrainConfig`.
"""

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import experiments.configs


class ConfigError(ValueError):
    """A configuration names something unknown, or something that does not fit."""


@dataclass
class DataConfig:
    """Which examples.

    Attributes:
      name: a spec, "digits", a TFDS image classification set or "folder(PATH)".
      split: "test", "train", or another that the set has.
      num_examples: the first so many of the split; 0 means all.
      data_dir: TFDS's data_dir; "" means TFDS_DATA_DIR or TFDS's default.
      image_size: images are resized and cropped to it, as evaluations on ImageNet do
        (256 for a crop of 224); 0 means as they are.
    """

    name: str = "digits"
    split: str = "test"
    num_examples: int = 200
    data_dir: str = ""
    image_size: int = 0


@dataclass
class AttackConfig:
    """How the search goes. Radii and steps are in units of 1/255.

    Attributes:
      name: one of jaxpure.attacks.REGISTRY.
      norm: "linf", "l2" or "l1", where the attack has it.
      eps_255: radius of the ball (stadv has `flow_bound` in its place).
      step_size_255: length of a step.
      num_steps: updates.
      eot_samples: draws averaged for every gradient.
      loss: "cross_entropy", "margin", "dlr", or apgd's "targeted_dlr".
      average: "loss" averages losses over the draws, "logits" takes the loss of the
        mean logits (Hill et al.).
      random_start: begin at a random point of the ball.
      momentum: weight of the previous gradients.
      verify_samples: draws that must agree before bpda_eot_hill calls an image broken.
      num_restarts: of apgd and fab.
      num_targets: classes that targeted attacks try.
      selection: what decides apgd's best iterate, "reference" or "consistent".
      num_queries: of square.
      version: autoattack's, "standard", "plus" or "rand".
      criterion: when an iterate counts as broken: "most" of the draws are wrong, "any" of
        them is, their "vote" is, or their "mean_logits" are; of pgd, diffhammer, stadv.
      iterate: pgd's result, its "best" iterate or its "last".
      deviation_weight: diffattack's lambda.
      flow_bound: longest flow of stadv, in units of half the image's side.
    """

    name: str = "pgd"
    norm: str = "linf"
    eps_255: float = 8.0
    step_size_255: float = 2.0
    num_steps: int = 50
    eot_samples: int = 1
    loss: str = "cross_entropy"
    average: str = "loss"
    random_start: bool = True
    momentum: float = 0.0
    verify_samples: int = 0
    num_restarts: int = 1
    num_targets: int = 9
    selection: str = "reference"
    num_queries: int = 5000
    version: str = "standard"
    criterion: str = "most"
    iterate: str = "best"
    deviation_weight: float = 1.0
    flow_bound: float = 0.05


@dataclass
class PurifierConfig:
    """How images are cleaned. A field that the purifier lacks must keep its default.

    Attributes:
      name: one of jaxpure.purifiers.REGISTRY.
      t_star: reverse steps, as DiffPure counts them.
      step_rule: "ddpm", "ddim", "sde" or "ode", with options in brackets:
        "ddpm(variance=fixed_small,clip=true)", "ddim(eta=0.5,num_steps=10)".
      schedule: "linear" or "cosine".
      rounds: times that noising and denoising are repeated.
      start: "t_star_minus_1" (DiffPure) or "t_star" (Lee and Kim, ADDT).
      scale_input: RevPure multiplies its input by sqrt(alphas_cumprod).
      image_size: size at which it runs, images being resized to it and back (bilinear),
        as DiffPure does on ImageNet; 0 means the images' own.
    """

    name: str = "diffpure"
    t_star: int = 100
    step_rule: str = "ddpm"
    schedule: str = "linear"
    rounds: int = 1
    start: str = "t_star_minus_1"
    scale_input: bool = False
    image_size: int = 0


@dataclass
class RunConfig:
    """One evaluation.

    Attributes:
      data: the examples.
      denoiser: name of bundled weights, path of a .safetensors file, `hf:OWNER/NAME`, or
        `random:ARCHITECTURE(...)`; see experiments.weights.
      classifier: likewise.
      purifier: how images are cleaned.
      attack: how the search goes.
      policy: which noise the attack knows; see jaxpure.randomness.parse_policy.
      gradient: "exact", "bpda", or a cheaper purifier's:
        "surrogate(t_star=20,step_rule=ddim(num_steps=5))"; or an attack on another
        defense, judged on this one: "transfer(name=identity)", "transfer(t_star=20)".
      judging_keys: draws under which every image is judged; at least 2.
      batch_size: images side by side on each device; part of the experiment.
      compute_dtype: "float32" or "bfloat16" for the networks' activations.
      seed: of the root key.
    """

    data: DataConfig = field(default_factory=DataConfig)
    denoiser: str = "digits_denoiser"
    classifier: str = "digits_classifier"
    purifier: PurifierConfig = field(default_factory=PurifierConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
    policy: str = "replay"
    gradient: str = "bpda"
    judging_keys: int = 10
    batch_size: int = 50
    compute_dtype: str = "float32"
    seed: int = 0


@dataclass
class TrainConfig:
    """One training run.

    Attributes:
      task: "classifier" or "denoiser".
      data: the examples to train on; classifiers are tested on the test split.
      architecture: name in jaxpure.models.REGISTRY with its options in brackets; the
        image's shape and the number of classes are filled in from the data.
      num_steps: updates.
      batch_size: examples an update, over all devices.
      optimizer: "sgd" (Nesterov, momentum 0.9) or "adam".
      learning_rate: the peak; linear warm-up, then a cosine to zero.
      warmup_steps: updates of the warm-up.
      weight_decay: decoupled from the loss for adam, added to the gradient for sgd.
      ema_decay: of the averaged weights, which are the ones that are published.
      grad_clip: the gradient's largest L2 norm.
      shift: augmentation, pixels.
      flip: augmentation, mirrored images.
      adversarial_eps_255: a classifier is trained on what PGD makes of each image in
        this Linf ball, in units of 1/255; 0 trains on the images themselves.
      adversarial_step_255: length of a step of that PGD.
      adversarial_steps: its updates.
      schedule: a denoiser's noise schedule.
      max_timestep: a denoiser is trained on timesteps below this alone, for
        purification with `t_star` up to it; 0 means all of the schedule.
      compute_dtype: of activations; "float32" or "bfloat16".
      stored_dtype: of the published file; "float32" or "float16".
      checkpoint_seconds: time between saved states.
      seed: of the root key.
    """

    task: str = "classifier"
    data: DataConfig = field(
        default_factory=lambda: DataConfig(split="train", num_examples=0)
    )
    architecture: str = "wide_resnet"
    num_steps: int = 1000
    batch_size: int = 128
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.0
    ema_decay: float = 0.999
    grad_clip: float = 1.0
    shift: int = 0
    flip: bool = False
    adversarial_eps_255: float = 0.0
    adversarial_step_255: float = 2.0
    adversarial_steps: int = 10
    schedule: str = "linear"
    max_timestep: int = 0
    compute_dtype: str = "float32"
    stored_dtype: str = "float32"
    checkpoint_seconds: int = 120
    seed: int = 0


def names(kind: type | None = None) -> dict[str, str]:
    """Configs of a kind (or of any) with the first line of their docstring."""
    found = {}
    for info in pkgutil.iter_modules(experiments.configs.__path__):
        module = importlib.import_module(f"experiments.configs.{info.name}")
        if kind is None or isinstance(module.get_config(), kind):
            found[info.name] = (module.__doc__ or "").strip().splitlines()[0]
    return found


def by_name(name: str, kind: type) -> Any:
    """The config of this name and kind.

    Raises:
      ConfigError: no such config; lists the known ones and the closest match.
    """
    known = names(kind)
    if name not in known:
        raise ConfigError(unknown("config", name, known))
    return importlib.import_module(f"experiments.configs.{name}").get_config()


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """One line that names an unknown thing, the known ones and the closest match."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown {what} {name!r}; known: {', '.join(known)}.{hint}"


def parse_spec(text: str) -> tuple[str, dict[str, str]]:
    """Splits "name(a=1,b=f(c=2))" into "name" and {"a": "1", "b": "f(c=2)"}."""
    name, bracket, rest = text.strip().partition("(")
    if bracket and not rest.endswith(")"):
        raise ConfigError(f"{text!r}: expected a closing bracket, as in name(key=value)")
    options, depth, start = {}, 0, 0
    body = rest[:-1] + "," if rest[:-1] else ""
    for i, letter in enumerate(body):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            key, equals, value = body[start:i].partition("=")
            if not equals:
                raise ConfigError(f"{text!r}: expected key=value, got {body[start:i]!r}")
            options[key.strip()] = value.strip()
            start = i + 1
    return name.strip(), options


def build(what: str, text: str, registry: Mapping[str, Callable[..., Any]], **known: Any):
    """Calls `registry[name](**options)` for a spec "name(option=value)".

    Values are read as the type of the option's default. `known` are passed on where the
    callable takes them.

    Raises:
      ConfigError: unknown name or option, or a value of the wrong type or range.
    """
    name, options = parse_spec(text)
    if name not in registry:
        raise ConfigError(unknown(what, name, registry))
    parameters = inspect.signature(registry[name]).parameters
    typed = {}
    for key, value in options.items():
        if key not in parameters:
            raise ConfigError(unknown(f"option of {what} {name}", key, parameters))
        typed[key] = read_as(value, parameters[key].default, f"{what} {name}: {key}")
    known = {key: value for key, value in known.items() if key in parameters}
    try:
        return registry[name](**{**known, **typed})
    except ValueError as error:  # the library's own words name the option
        raise ConfigError(f"{what} {text}: {error}") from error


def read_as(value: str, default: Any, where: str) -> Any:
    if isinstance(default, bool):
        if value.lower() not in ("true", "false"):
            raise ConfigError(f"{where}={value}, expected true or false")
        return value.lower() == "true"
    if isinstance(default, tuple):
        return tuple(read_as(v, default[0], where) for v in value.split("|"))
    if default is None or default is inspect.Parameter.empty:
        default = 0
    try:
        return type(default)(value)
    except ValueError as error:
        raise ConfigError(f"{where}={value}, expected {type(default).__name__}") from error


def as_dict(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config)
