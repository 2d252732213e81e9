"""Typed configurations: what they hold, and how a name finds one.

A config is one module in experiments/configs/ with a docstring (its first line is what
`--list` shows) and `get_config()`, which returns a `RunConfig`, a `TrainConfig` or a
`PaperConfig`. Fields that name registered things hold their specs as text.
"""

import ast
import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import experiments.configs
from jaxpure.errors import UserError, unknown


class ConfigError(UserError):
    """A configuration names something unknown, or something that does not fit."""


def spec(what: str, default: str) -> Any:
    """A field that holds a spec of a registry; `what` is one of `experiments.things`."""
    return field(default=default, metadata={"spec": what})


@dataclass
class RunConfig:
    """One evaluation.

    Attributes:
      data: the examples; `jaxpure.data`.
      denoiser: name of bundled weights, path of a .safetensors file, `hf:OWNER/NAME`, or
        `random:ARCHITECTURE(...)`; see `experiments.weights`.
      classifier: likewise.
      purifier: how images are cleaned; `jaxpure.purifiers`.
      ball: what the attack may do; `jaxpure.attacks.balls`.
      attack: how the search goes; `jaxpure.attacks`.
      policy: which noise the attack knows; `jaxpure.policy.parse_policy`.
      gradient: what the attack takes for the purifier's derivative; `jaxpure.gradients`.
      judging_keys: draws under which every image is judged; at least 2.
      batch_size: images side by side on each device, part of the experiment; "auto" is
        what the device's memory holds when the run is begun.
      draws_at_once: draws of an image side by side, where many are made.
      compute_dtype: of the networks' activations.
      seed: of the root key, 0 to 2**32 - 1.
    """

    data: str = spec("data", "digits(num_examples=200)")
    denoiser: str = "digits_denoiser"
    classifier: str = "digits_classifier"
    purifier: str = spec("purifier", "diffpure(t_star=100)")
    ball: str = spec("ball", "linf(8/255)")
    attack: str = spec("attack", "pgd")
    policy: str = "replay"
    gradient: str = spec("gradient", "bpda")
    judging_keys: int = 10
    batch_size: int | Literal["auto"] = 50
    draws_at_once: int = 1
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0


@dataclass
class DataConfig:
    """Which examples a training run is about.

    Attributes:
      name: a spec, "digits", a TFDS image classification set or "folder(PATH)".
      split: "test", "train", or another that the set has.
      num_examples: the first so many of the split; 0 means all.
      data_dir: TFDS's data_dir; "" means TFDS_DATA_DIR or TFDS's default.
      image_size: images are resized and cropped to it, as evaluations on ImageNet do
        (256 for a crop of 224); 0 means as they are.
      test_every: of a set without a test split, every so many-th example is its test
        split, which training never sees; 0 for a set that has one.
    """

    name: str = "digits"
    split: str = "test"
    num_examples: int = 200
    data_dir: str = ""
    image_size: int = 0
    test_every: int = 0


@dataclass
class TrainConfig:
    """One training run.

    Attributes:
      task: "classifier" or "denoiser".
      data: the examples to train on; the test split measures, and decides nothing.
      architecture: name in jaxpure.models.ARCHITECTURES with its options in brackets; the
        image's shape and the number of classes are filled in from the data.
      initial_weights: a network of that architecture to train on from, a bundled name or
        a file; none for new weights. Rates, averages and steps begin anew.
      num_steps: updates.
      batch_size: examples an update, over all devices.
      accumulation: parts of a batch that are taken one after another, for its gradient in
        less memory.
      passes: an epoch is a shuffled pass over the data; else examples are drawn with
        replacement.
      optimizer: "sgd" (Nesterov), "adam", or "muon", which leaves all but convolutions to
        SGD.
      learning_rate: the peak.
      rate_factors: factors of the rate by a part of a parameter's name, as "bias=64,
        logits=2"; of sgd and of muon's SGD.
      warmup_steps: updates in which the rate grows linearly from 0.
      rate_decay: what follows: "cosine" or "linear" to zero, or "constant".
      momentum: of sgd.
      muon_momentum: of muon's convolutions.
      weight_decay: decoupled from the loss for adam, added to the gradient for sgd.
      ema_decay: of the averaged weights, which are the ones that are published.
      ema_width: relative width of a power-function average in its place, whose horizon
        grows with training; 0 for `ema_decay`.
      grad_clip: the gradient's largest L2 norm; 0 for any.
      label_smoothing: of a classifier's labels.
      crop: a random part of each image, so many pixels high and wide, and the network is
        one of that size; it is measured on the middle of the test images. 0 for all of it.
      shift: augmentation, pixels.
      reflect: a shift uncovers the image mirrored at its edge; else 0.
      flip: augmentation, mirrored images.
      alternate_flips: each image is mirrored in every other epoch (with `passes`); else
        at random.
      small_size: images are resized to it in the first `small_steps` updates.
      small_steps: 0 for none.
      adversarial_eps_255: a classifier is trained on what PGD makes of each image in
        this Linf ball, in units of 1/255; 0 trains on the images themselves.
      adversarial_step_255: length of a step of that PGD.
      adversarial_steps: its updates.
      schedule: a denoiser's noise schedule.
      max_timestep: a denoiser is trained on timesteps below this alone, for
        purification with `t_star` up to it; 0 means all of the schedule.
      min_snr_gamma: a denoiser's timesteps are weighed by min-SNR; 0 weighs all alike.
      compute_dtype: of activations; "float32" or "bfloat16".
      stored_dtype: of the published file; "float32" or "float16".
      log_steps: updates between lines of the loss.
      validation_steps: updates between measurements on the test split; 0 for none.
      kept_checkpoints: weights are kept along the way, averaged and raw, at the last step
        and at a half, a quarter, ... of it: so many in all.
      checkpoint_seconds: time between saved states.
      seed: of the root key.
    """

    task: str = "classifier"
    data: DataConfig = field(
        default_factory=lambda: DataConfig(split="train", num_examples=0)
    )
    architecture: str = "wide_resnet"
    initial_weights: str = ""
    num_steps: int = 1000
    batch_size: int = 128
    accumulation: int = 1
    passes: bool = False
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    rate_factors: str = ""
    warmup_steps: int = 100
    rate_decay: str = "cosine"
    momentum: float = 0.9
    muon_momentum: float = 0.6
    weight_decay: float = 0.0
    ema_decay: float = 0.999
    ema_width: float = 0.0
    grad_clip: float = 1.0
    label_smoothing: float = 0.0
    crop: int = 0
    shift: int = 0
    reflect: bool = False
    flip: bool = False
    alternate_flips: bool = False
    small_size: int = 0
    small_steps: int = 0
    adversarial_eps_255: float = 0.0
    adversarial_step_255: float = 2.0
    adversarial_steps: int = 10
    schedule: str = "linear"
    max_timestep: int = 0
    min_snr_gamma: float = 0.0
    compute_dtype: str = "float32"
    stored_dtype: str = "float32"
    log_steps: int = 100
    validation_steps: int = 0
    kept_checkpoints: int = 0
    checkpoint_seconds: int = 120
    seed: int = 0


@dataclass
class PaperConfig:
    """All that the numbers of a page of `experiments.paper` depend on, besides the code.

    Attributes:
      data: the examples, of which `num_examples` are taken; `jaxpure.data`.
      denoiser: name of bundled weights, or path of a .safetensors file.
      classifier: likewise.
      purifier: what all sections but the sweeps are about.
      ball: what the attack may do.
      sweep: purifiers of the sweep over t_star and samplers.
      checkpoints: weights of the same denoiser, from worse to better or in any order.
      num_examples: images, the first of the set.
      batch_size: images in a unit of work; at most `num_examples`.
      num_steps: updates of PGD.
      eot_samples: draws of the EOT attacks, at least 2.
      judging_keys: draws that judge an image, at least twice `matrix_keys`.
      matrix_keys: attack keys of the key matrix, at least 2.
      cloud_images: images whose purifications are correlated; at most `num_examples`.
      cloud: keys, and starts, of each of them; at least 4.
      directions: of the compression rate.
      path_steps: steps along which gradients are compared.
      seed: of the root key, 0 to 2**32 - 1.
    """

    data: str = spec("data", "digits")
    denoiser: str = "digits_denoiser"
    classifier: str = "digits_classifier"
    purifier: str = spec("purifier", "diffpure(t_star=50)")
    ball: str = spec("ball", "linf(8/255)")
    sweep: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    num_examples: int = 100
    batch_size: int = 25
    num_steps: int = 20
    eot_samples: int = 15
    judging_keys: int = 16
    matrix_keys: int = 6
    cloud_images: int = 20
    cloud: int = 100
    directions: int = 8
    path_steps: int = 8
    seed: int = 0


def names(kind: type | None = None) -> dict[str, str]:
    """Configs of a kind (or of any) with the first line of their docstring.

    Reads their source alone, so that a list needs no JAX.
    """
    found = {}
    for info in pkgutil.iter_modules(experiments.configs.__path__):
        source = Path(experiments.configs.__path__[0], f"{info.name}.py").read_text("utf-8")
        module = ast.parse(source)
        (function,) = (
            node
            for node in module.body
            if isinstance(node, ast.FunctionDef) and node.name == "get_config"
        )
        returned = ast.unparse(function.returns) if function.returns else ""
        if kind is None or returned == kind.__name__:
            found[info.name] = (ast.get_docstring(module) or "").partition("\n")[0]
    return found


def about(name: str) -> str:
    """The whole docstring of a config."""
    module = importlib.import_module(f"experiments.configs.{name}")
    return (module.__doc__ or "").strip()


def by_name(name: str, kind: type) -> Any:
    """The config of this name and kind.

    Raises:
      ConfigError: no such config; lists the known ones and the closest match.
    """
    known = names(kind)
    if name not in known:
        raise ConfigError(unknown("config", name, known) + " (--list says what they are)")
    return importlib.import_module(f"experiments.configs.{name}").get_config()


def as_dict(config: Any) -> dict[str, Any]:
    """All fields by name."""
    return dataclasses.asdict(config)


def run_config(values: Mapping[str, Any]) -> RunConfig:
    """The config of these fields, as `as_dict` gave them.

    Raises:
      ConfigError: an unknown field, or a value of another type.
    """
    usual = as_dict(RunConfig())
    for name, value in values.items():
        if name not in usual:
            raise ConfigError(unknown("field", name, usual))
        if type(value) is not type(usual[name]):
            raise ConfigError(f"{name}={value!r}, expected {type(usual[name]).__name__}")
    return RunConfig(**values)
