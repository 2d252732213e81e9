"""Networks by the names that configs give them.

A name of bundled weights, the path of a .safetensors file, `hf:OWNER/NAME` (fetched and
converted once), or `random:ARCHITECTURE(option=value)`: freshly initialised, to see what
a run would cost before its weights are at hand.
"""

import hashlib
from typing import Any

import jax
from etils import epath

from experiments import config as configs
from jaxpure import checkpoints, models

HUB, RANDOM = "hf:", "random:"


def load(name: str) -> models.Network:
    """The network of this name.

    Raises:
      CheckpointError, ConfigError: there is none, or the file is not one.
    """
    if name.startswith(RANDOM):
        spec = name.removeprefix(RANDOM)
        architecture = configs.build("architecture", spec, models.REGISTRY)
        try:
            return models.create(architecture, jax.random.key(0))
        except ValueError as error:  # its first line names the option; the rest is JAX's
            reason = str(error).split("\n")[0]
            raise configs.ConfigError(f"{name}: {reason}") from error
    return checkpoints.load(_path(name))


def card(name: str) -> dict[str, Any]:
    """What is known of its making: empty where nothing is."""
    return {} if name.startswith(RANDOM) else checkpoints.card(_path(name))


def digest(name: str) -> str:
    """SHA-256 of the content, for a file at a path may be replaced."""
    if name.startswith(RANDOM):
        return hashlib.sha256(name.encode()).hexdigest()
    return checkpoints.sha256(_path(name))


def _path(name: str) -> epath.Path:
    if name.startswith(HUB):
        from checkpoints_convert import ConversionError, converted_from_hub

        try:
            return epath.Path(converted_from_hub(name.removeprefix(HUB)))
        except ConversionError as error:
            raise checkpoints.CheckpointError(str(error)) from error
    return checkpoints.find(name)
