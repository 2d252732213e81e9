"""Gradient rules: transforms of a purifier that keep its value and choose its derivative.

    exact           the purifier itself
    bpda            its value, the derivative of the identity
    surrogate(f)    its value, the derivative of the cheaper purifier f
    transfer(f)     another purifier f in its place, for an attack judged on this one

A surrogate is called with the same key, so it meets the same noise at every timestep that
the two chains share. A rule is a function from purifier to purifier; those of `GRADIENTS`
also go by spec.
"""

from typing import Annotated, Any

import jax

from jaxpure.defenses import denoiser_evaluations, noise_parts
from jaxpure.errors import UserError
from jaxpure.keys import AnyKey
from jaxpure.purifiers import PURIFIERS, Identity
from jaxpure.pytrees import pytree
from jaxpure.specs import Registry
from jaxpure.types import Image, Purifier


@pytree(eq=False)
class WithDerivative:
    """The value of one purifier, the derivative of another under the same key.

    Attributes:
      purifier: whose value is taken.
      derivative: whose derivative is taken; it must give the same shape.
    """

    purifier: Any
    derivative: Any

    @property
    def noise_parts(self) -> tuple[str, ...]:
        return noise_parts(self.purifier)

    @property
    def denoiser_evaluations(self) -> int | None:
        value = denoiser_evaluations(self.purifier)
        derivative = denoiser_evaluations(self.derivative)
        return None if value is None or derivative is None else value + derivative

    def __call__(self, key: AnyKey, x: Image) -> Image:
        value = jax.lax.stop_gradient(self.purifier(key, x))
        through = self.derivative(key, x)
        if value.shape != through.shape:
            raise UserError(
                f"a purifier to {value.shape} has no derivative of one to "
                f"{through.shape}; use the exact gradient"
            )
        # The value to the bit (x - x is 0 for finite x), differentiated as `through`.
        return value + (through - jax.lax.stop_gradient(through))


@pytree
class Exact:
    """The purifier with its own derivative."""

    def __call__(self, purifier: Purifier) -> Purifier:
        return purifier


@pytree
class Bpda:
    """Backward pass differentiable approximation by the identity (Athalye et al. 2018)."""

    def __call__(self, purifier: Purifier) -> Purifier:
        return WithDerivative(purifier, Identity())


@pytree(eq=False)
class Surrogate:
    """The derivative of a cheaper purifier (Lee and Kim 2023).

    Attributes:
      cheap: whose derivative is taken, under the same key.
    """

    cheap: Annotated[Any, PURIFIERS]

    def __call__(self, purifier: Purifier) -> Purifier:
        return WithDerivative(purifier, self.cheap)


@pytree(eq=False)
class Transfer:
    """An attack on another defense, judged on this one. The two share no noise.

    Attributes:
      other: the purifier of that defense.
    """

    other: Annotated[Any, PURIFIERS]

    def __call__(self, purifier: Purifier) -> Purifier:
        del purifier
        return self.other


GRADIENTS = Registry(
    "gradient",
    {"exact": Exact, "bpda": Bpda, "surrogate": Surrogate, "transfer": Transfer},
)
