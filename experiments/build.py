"""From a config to things that run: specs in, objects out, what does not fit is named."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as configs
from experiments import weights
from jaxpure import data, models, specs
from jaxpure.attacks import ATTACKS, undefended
from jaxpure.defenses import PurifiedClassifier
from jaxpure.errors import UserError
from jaxpure.evaluation import Setup, set_up
from jaxpure.evaluation.setup import check_fit
from jaxpure.gradients import GRADIENTS
from jaxpure.purifiers import PURIFIERS, Identity

SEED_LIMIT = 2**32  # seeds that are equal modulo this are the same
SHOWN = 200  # letters of a config's value in a message: a list of indices may be long


@dataclass(frozen=True)
class Experiment:
    """A config made into things that run.

    Attributes:
      config: where it comes from.
      dataset: the examples.
      defense: the plain defense, which judges.
      setup: the attack on it.
      undefended: the classifier alone, as a defense.
      undefended_setup: what is left of the same attack on that.
    """

    config: configs.RunConfig
    dataset: data.Dataset
    defense: PurifiedClassifier
    setup: Setup
    undefended: PurifiedClassifier
    undefended_setup: Setup

    @property
    def root(self) -> jax.Array:
        """The root key."""
        return jax.random.key(self.config.seed)


def experiment(config: configs.RunConfig, data_dir: str | None = None) -> Experiment:
    """Makes an experiment of a config.

    Args:
      config: what to make.
      data_dir: where TFDS's sets are; see `load`.

    Raises:
      UserError: something named does not exist, or does not fit.
    """
    _check_numbers(config)
    dataset = _of_field(config, "data", lambda: load(config.data, data_dir))
    classifier, denoiser = _classifier(config, dataset), _denoiser(config)
    purifier = _of_field(
        config,
        "purifier",
        lambda: specs.build(PURIFIERS, config.purifier, denoiser=denoiser),
    )
    _check_purifier(config, purifier, dataset)
    rule = _of_field(
        config,
        "gradient",
        lambda: specs.build(GRADIENTS, config.gradient, denoiser=denoiser),
    )
    attack = _of_field(config, "attack", lambda: specs.build(ATTACKS, config.attack))
    defense = PurifiedClassifier(purifier, classifier)
    alone = PurifiedClassifier(Identity(), classifier)
    setup = set_up(
        defense,
        attack,
        ball=config.ball,
        policy=config.policy,
        gradient=rule,
        judging_keys=config.judging_keys,
    )
    alone_setup = set_up(
        alone, undefended(attack), ball=config.ball, policy="replay", judging_keys=1
    )
    for each in (setup, alone_setup):
        check_fit(each, dataset)
    return Experiment(config, dataset, defense, setup, alone, alone_setup)


def load(spec: str, data_dir: str | None = None) -> data.Dataset:
    """The examples that a spec names.

    Args:
      spec: as `data.load` takes it.
      data_dir: where the source is to look, where it is one that looks somewhere and the
        spec does not say.
    """
    source = data.parse(spec)
    if data_dir and getattr(source, "data_dir", data_dir) is None:
        source = data.parse(spec, data_dir=data_dir)
    return data.load(source)


def load_data(config: configs.DataConfig, split: str) -> data.Dataset:
    """The examples that a training config names, of this split.

    Raises:
      ConfigError: the set has no test split and none is made of it, or the other way round.
    """
    source = data.parse(config.name)
    has_splits = hasattr(source, "split")
    if has_splits == bool(config.test_every):
        raise configs.ConfigError(
            f"config.data.test_every={config.test_every}: {config.name} has a test split"
            if has_splits
            else f"{config.name} has no test split to measure on: keep every tenth example "
            "out of training by config.data.test_every=10"
        )
    options = {
        "num_examples": config.num_examples or None,
        "image_size": config.image_size or None,
    }
    # Of --data_dir and --split only what the source has: a folder has none, digits no dir.
    where = {"split": split, "data_dir": config.data_dir or None}
    options |= {name: value for name, value in where.items() if hasattr(source, name)}
    given = {name: value for name, value in options.items() if value is not None}
    found = data.load(source, **given)
    if has_splits:
        return found
    for_test = np.arange(len(found)) % config.test_every == 0
    return data.take(found, for_test if split == "test" else ~for_test)


def _check_numbers(config: configs.RunConfig) -> None:
    if config.judging_keys < 2:
        raise configs.ConfigError(
            f"config.judging_keys={config.judging_keys}, expected at least 2: one that a "
            "replaying attack is given, and one that no attack sees"
        )
    for name in ("batch_size", "draws_at_once"):
        value = getattr(config, name)
        if value != "auto" and value < 1:
            raise configs.ConfigError(f"config.{name}={value}, expected at least 1")
    if not 0 <= config.seed < SEED_LIMIT:
        raise configs.ConfigError(
            f"config.seed={config.seed}, expected 0 to {SEED_LIMIT - 1}: seeds that are "
            "equal modulo 2**32 are the same"
        )


def _classifier(config: configs.RunConfig, dataset: data.Dataset) -> models.Network:
    name = config.classifier
    network = _network(config, "classifier")
    if not models.is_classifier(network):
        raise configs.ConfigError(
            f"config.classifier={name} is not a classifier: {network}"
        )
    x = jax.ShapeDtypeStruct(dataset.image_shape, jnp.float32)
    try:
        (classes,) = jax.eval_shape(lambda network, x: network(x), network, x).shape
    except UserError as error:
        raise configs.ConfigError(
            f"config.classifier={name} on {dataset.name}: {error}"
        ) from error
    if classes != dataset.num_classes:
        raise configs.ConfigError(
            f"config.classifier={name} has {classes} classes, {dataset.name} has "
            f"{dataset.num_classes}: choose the classifier for this data set"
        )
    return network


def _denoiser(config: configs.RunConfig) -> models.Network:
    network = _network(config, "denoiser")
    if not models.is_denoiser(network):
        raise configs.ConfigError(
            f"config.denoiser={config.denoiser} is not a denoiser: {network}"
        )
    return network


def _network(config: configs.RunConfig, field: str) -> models.Network:
    name = getattr(config, field)
    return _of_field(config, field, lambda: weights.load(name, config.compute_dtype))


def _check_purifier(
    config: configs.RunConfig, purifier: Any, dataset: data.Dataset
) -> None:
    """Traces a purification, so that a denoiser of another size is told."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    x = jax.ShapeDtypeStruct(dataset.image_shape, jnp.float32)
    try:
        jax.eval_shape(lambda p, key, x: p(key, x), purifier, key, x)
    except UserError as error:
        raise configs.ConfigError(
            f"config.denoiser={config.denoiser} on {dataset.name} of "
            f"{dataset.image_shape}: {error} "
            "(config.purifier='resized(purifier=...,image_size=...)' purifies at another "
            "size)"
        ) from error


def _of_field(config: configs.RunConfig, field: str, make: Any) -> Any:
    """What `make` gives; what it refuses is told of the config's field."""
    try:
        return make()
    except UserError as error:
        value = str(getattr(config, field))
        shown = value if len(value) <= SHOWN else f"{value[:SHOWN]}..."
        raise configs.ConfigError(f"config.{field}={shown}: {error}") from error
