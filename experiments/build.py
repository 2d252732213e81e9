"""From a config to things that run: networks, purifier, gradient rule, attack."""

import dataclasses
import inspect
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from experiments import config as configs
from experiments import weights
from jaxpure import attacks, data, gradients, purifiers, randomness
from jaxpure.defense import PurifiedClassifier, noise_parts
from jaxpure.diffusion import RULES, SCHEDULES, Ddpm

GRADIENTS = ("exact", "bpda", "surrogate", "transfer")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config made into things that run.

    Attributes:
      config: where it comes from.
      dataset: the examples.
      defense: the plain defense, which judges.
      seen: the same under the gradient rule, which the attack sees.
      attack: the attack on it, under its gradient rule.
      bare: the classifier alone, as a defense.
      bare_attack: the same attack on that.
    """

    config: configs.RunConfig
    dataset: data.Dataset
    defense: PurifiedClassifier
    seen: PurifiedClassifier
    attack: Any
    bare: PurifiedClassifier
    bare_attack: Any

    @property
    def root(self) -> jax.Array:
        return jax.random.key(self.config.seed)


def experiment(config: configs.RunConfig) -> Experiment:
    """Makes an experiment of a config.

    Raises:
      ConfigError, DataError, CheckpointError: something named does not exist or fit.
    """
    if config.judging_keys < 2:
        raise configs.ConfigError(
            f"judging_keys={config.judging_keys}, expected at least 2: one that "
            "a replaying attack is given, and one that no attack sees"
        )
    if config.batch_size < 1:
        raise configs.ConfigError(f"batch_size={config.batch_size}, expected at least 1")
    dataset = load_data(config.data, config.data.split)
    classifier, denoiser = _classifier(config, dataset), _denoiser(config, dataset)
    try:
        purifier = _purifier(config.purifier, denoiser)
        policy = randomness.parse_policy(config.policy, noise_parts(purifier))
        rule = _gradient_rule(config, denoiser)
        seen = PurifiedClassifier(rule(purifier), classifier)
        attack = _attack(config.attack, seen, policy)
        identity = purifiers.Identity()
        bare = PurifiedClassifier(identity, classifier)
        bare_attack = _bare_attack(config.attack, bare)
        _check_radius(attack, dataset.image_shape)
        _trace(attack, dataset)
    except configs.ConfigError:
        raise
    except (ValueError, TypeError) as error:  # the library's own words name the option
        raise configs.ConfigError(str(error)) from error
    defense = PurifiedClassifier(purifier, classifier)
    return Experiment(config, dataset, defense, seen, attack, bare, bare_attack)


def load_data(config: configs.DataConfig, split: str) -> data.Dataset:
    """The examples that a config names, of this split."""
    source = data.parse(config.name)
    options = {
        "num_examples": config.num_examples or None,
        "image_size": config.image_size or None,
    }
    # Of --data_dir and --split only what the source has: a folder has none, digits no dir.
    where = {"split": split, "data_dir": config.data_dir or None}
    options |= {name: value for name, value in where.items() if hasattr(source, name)}
    given = {name: value for name, value in options.items() if value is not None}
    return data.load(source, **given)


def _check_radius(attack: Any, shape: tuple[int, ...]) -> None:
    """Refuses a ball of one image, and one that holds every image there is."""
    size = math.prod(shape)
    largest = {"linf": 1.0, "l2": math.sqrt(size), "l1": float(size), "flow": 2.0}
    most = largest[attack.norm]
    if not 0 < attack.eps <= most:
        field, unit = ("flow_bound", 1) if attack.norm == "flow" else ("eps_255", 255)
        raise configs.ConfigError(
            f"config.attack.{field}={unit * attack.eps:g} in {attack.norm}: expected above "
            f"0, where an attack has nothing to change, to {unit * most:g}, where every "
            "image is within reach"
        )


def _trace(attack: Any, dataset: data.Dataset) -> None:
    """Traces one step, so that what does not fit is told before any work is done."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    x = jax.ShapeDtypeStruct(dataset.image_shape, jnp.float32)
    label = jax.ShapeDtypeStruct((), jnp.int32)
    for _, each in attacks.stages_of(attack):
        jax.eval_shape(lambda a, *args: a.step(a.init(*args)), each, key, x, label)


def _classifier(config: configs.RunConfig, dataset: data.Dataset) -> Any:
    name = config.classifier
    network = weights.load(name).replace(compute_dtype=config.compute_dtype)
    if not hasattr(network.config, "mean"):  # what every classifier takes off its input
        raise configs.ConfigError(f"{name} is not a classifier: {network}")
    _check_shape(name, network, dataset.image_shape, dataset.name)
    classes = getattr(network.config, "num_classes", None)
    if classes != dataset.num_classes:
        raise configs.ConfigError(
            f"{name} has {classes} classes, {dataset.name} has {dataset.num_classes}"
        )
    return network


def _denoiser(config: configs.RunConfig, dataset: data.Dataset) -> Any:
    name, purifier = config.denoiser, config.purifier
    network = weights.load(name).replace(compute_dtype=config.compute_dtype)
    if hasattr(network.config, "mean"):
        raise configs.ConfigError(f"{name} is not a denoiser: {network}")
    if getattr(network.config, "num_classes", 0):
        raise configs.ConfigError(
            f"{name} is class-conditional: purification has no class to tell it; choose an "
            "unconditional denoiser"
        )
    shape, what = dataset.image_shape, dataset.name
    if purifier.image_size:
        shape = (purifier.image_size, purifier.image_size, shape[-1])
        what = "config.purifier.image_size"
    _check_shape(name, network, shape, what)
    trained = weights.card(name).get("diffusion", {})
    _check_training(name, trained, purifier)
    _tell_differences(name, trained, purifier)
    scale = trained.get("label_scale", 1)
    return network if scale == 1 else jax.tree_util.Partial(_told_scaled, scale, network)


def _told_scaled(scale: float, network: Any, x: jax.Array, t: jax.Array) -> jax.Array:
    """A denoiser that was trained on labels of `scale` times the timestep."""
    return network(x, scale * t)


def _check_shape(name: str, network: Any, shape: tuple[int, ...], what: str) -> None:
    expected = network.config.input_shape
    if expected != shape:
        raise configs.ConfigError(
            f"{name} takes images of {expected}, {what} has {shape}; choose the denoiser "
            "and the classifier for this data set, or set config.data.image_size and "
            "config.purifier.image_size"
        )


def _check_training(
    name: str, trained: dict[str, Any], purifier: configs.PurifierConfig
) -> None:
    """Refuses a schedule, or timesteps, that the denoiser was not trained on."""
    if purifier.name == "identity":
        return
    known, schedule = trained.get("timesteps"), trained.get("schedule", purifier.schedule)
    if known is not None and purifier.t_star > known:
        raise configs.ConfigError(
            f"t_star={purifier.t_star}, but {name} was trained on timesteps below {known} "
            "alone: choose a smaller config.purifier.t_star or another denoiser"
        )
    # The continuous schedule is the linear one's limit; the rule says which is used.
    rule, _ = configs.parse_spec(purifier.step_rule)
    if schedule == "continuous_vp":
        if rule not in ("sde", "ode") or "continuous" not in purifier.step_rule:
            raise configs.ConfigError(
                f"{name} was trained in continuous time: use "
                "config.purifier.step_rule='sde(labels=continuous)' (or ode)"
            )
    elif schedule != purifier.schedule:
        raise configs.ConfigError(
            f"schedule={purifier.schedule!r}, but {name} was trained on {schedule!r}: set "
            "config.purifier.schedule to it"
        )


def _tell_differences(
    name: str, trained: dict[str, Any], purifier: configs.PurifierConfig
) -> None:
    """Says where DDPM steps are not those of the denoiser's own scheduler."""
    rule, options = configs.parse_spec(purifier.step_rule)
    if rule != "ddpm" or purifier.name == "identity":
        return
    taken = {
        "variance": options.get("variance", Ddpm.variance),
        "clip": options.get("clip", str(Ddpm.clip).lower()),
    }
    for field, value in taken.items():
        own = str(trained.get(field, value))
        if own.lower() != value:
            logging.warning(
                "%s comes with %s=%s, config.purifier.step_rule has %s: not the sampler "
                "that the denoiser was published with",
                name,
                field,
                own.lower(),
                value,
            )


def _purifier(config: configs.PurifierConfig, denoiser: Any) -> Any:
    create = _find("purifier", config.name, purifiers.REGISTRY)
    options = _accepted(config, create, ("step_rule", "schedule", "image_size"))
    takes = inspect.signature(create).parameters
    if "denoiser" in takes:
        options |= {
            "denoiser": denoiser,
            "schedule": configs.build("schedule", config.schedule, SCHEDULES),
        }
    if "step_rule" in takes:
        options["step_rule"] = configs.build("step rule", config.step_rule, RULES)
    purifier = create(**options)
    if not config.image_size:
        return purifier
    return purifiers.Resized(purifier, config.image_size)


def _gradient_rule(config: configs.RunConfig, denoiser: Any) -> Any:
    """The transform of the purifier that `config.gradient` names."""
    name, options = configs.parse_spec(config.gradient)
    if name not in GRADIENTS:
        raise configs.ConfigError(configs.unknown("gradient", name, GRADIENTS))
    if name in ("exact", "bpda"):
        if options:
            raise configs.ConfigError(f"gradient {name} takes no options, got {options}")
        return {"exact": gradients.exact, "bpda": gradients.bpda}[name]
    if not options:
        raise configs.ConfigError(
            f"gradient {name} needs to say how it differs from the purifier, for "
            f"example {name}(t_star=20) or {name}(step_rule=ddim(num_steps=5))"
        )
    # Another kind of purifier starts from its own defaults.
    other = configs.PurifierConfig() if "name" in options else config.purifier
    other = dataclasses.replace(other)
    for key, value in options.items():
        if not hasattr(other, key):
            known = [field.name for field in dataclasses.fields(other)]
            raise configs.ConfigError(
                configs.unknown(f"option of gradient {name}", key, known)
            )
        where = f"gradient {name}: {key}"
        setattr(other, key, configs.read_as(value, getattr(other, key), where))
    if name == "surrogate":
        return partial(gradients.surrogate, cheap=_purifier(other, denoiser))
    if randomness.parse_policy(config.policy, ("forward", "reverse")).replays_all:
        raise configs.ConfigError(
            "gradient transfer crafts on another defense, which shares no noise with the "
            "one that judges: set config.policy=fresh"
        )
    return lambda purifier: _purifier(other, denoiser)


def _attack(config: configs.AttackConfig, defense: Any, policy: randomness.Policy) -> Any:
    create = _find("attack", config.name, attacks.REGISTRY)
    sizes = {"eps": config.eps_255 / 255, "step_size": config.step_size_255 / 255}
    takes = inspect.signature(create).parameters  # others have their own
    options = {name: size for name, size in sizes.items() if name in takes}
    units = ("eps_255", "step_size_255")
    return create(defense, policy, **options, **_accepted(config, create, units))


# Where there is nothing to purify, what is left of an attack on purification.
ON_BARE = {"bpda_eot_hill": "pgd", "diffattack": "apgd"}


def _bare_attack(config: configs.AttackConfig, bare: Any) -> Any:
    """The same attack, as far as it is one without a purifier and with nothing random."""
    name = ON_BARE.get(config.name, config.name)
    own = {"criterion": "most", "iterate": "best"}  # of many draws; here there is one
    if name != config.name:
        takes = inspect.signature(attacks.REGISTRY[name]).parameters
        own |= {
            field.name: field.default
            for field in dataclasses.fields(config)
            if field.name not in takes and not field.name.endswith("_255")
        }
    config = dataclasses.replace(config, **own | {"name": name})
    return _attack(config, bare, randomness.PRESETS["replay"])


def _find(what: str, name: str, registry: dict[str, Any]) -> Any:
    if name not in registry:
        raise configs.ConfigError(configs.unknown(what, name, registry))
    return registry[name]


def _accepted(config: Any, create: Any, handled: tuple[str, ...]) -> dict[str, Any]:
    """The config's fields that `create` takes; another must have kept its default."""
    takes = inspect.signature(create).parameters
    options = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "name" or (field.name in handled and field.name not in takes):
            continue
        if field.name in takes:
            if field.name not in handled:
                options[field.name] = value
        elif value != field.default:
            usable = [f.name for f in dataclasses.fields(config) if f.name in takes]
            raise configs.ConfigError(
                f"{config.name} has no option {field.name!r}: leave it at its default "
                f"{field.default!r} (it is {value!r}); {config.name} takes "
                f"{', '.join(usable) or 'none'}"
            )
    return options
