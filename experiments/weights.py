"""Networks by the names that configs give them: those of `jaxpure.weights`, and the hub's.

`hf:OWNER/NAME` is fetched and converted once.
"""

from jaxpure import models, weights
from jaxpure.errors import UserError
from jaxpure.models.network import ComputeDtype

HUB = "hf:"


def load(name: str, compute_dtype: ComputeDtype = "float32") -> models.Network:
    """The network of this name.

    Raises:
      UserError: there is none, or the file is not one.
    """
    return weights.load(local(name), compute_dtype)


def digest(name: str) -> str:
    """SHA-256 of the content, for a file at a path may be replaced."""
    return weights.digest(local(name))


def local(name: str) -> str:
    """The name or path under which this machine has it, fetched where it has to be."""
    if not name.startswith(HUB):
        return name
    from checkpoints_convert import ConversionError, converted_from_hub

    try:
        return str(converted_from_hub(name.removeprefix(HUB)))
    except ConversionError as error:
        raise UserError(str(error)) from error
