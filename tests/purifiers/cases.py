"""One small case a registered purifier, and some of its other sides.

What a case says beyond its spec is what the properties in test_properties.py need to know
of it. A purifier that is registered without a case fails the suite.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure import specs
from jaxpure.purifiers import PURIFIERS

SHAPE = (3, 2, 2)


class Case(NamedTuple):
    """A purifier as its spec makes it.

    Attributes:
      spec: what builds it, with options other than the defaults.
      calls: how often it calls its denoiser.
      first: the largest timestep that it tells the denoiser; -1 for none.
      written: the spec that it writes of itself, where that is another.
    """

    spec: str
    calls: int
    first: int
    written: str = ""

    @property
    def name(self):
        return specs.parse(self.spec).name


CASES = {
    "diffpure": Case("diffpure(t_star=5)", 5, 4),
    "revpure": Case("revpure(t_star=5)", 5, 4),
    "ddim": Case("ddim(t_star=5)", 5, 4, written="diffpure(t_star=5,step_rule=ddim)"),
    "one_shot": Case("one_shot(t_star=5)", 1, 4),
    "resized": Case("resized(purifier=diffpure(t_star=2),image_size=4)", 2, 1),
    "identity": Case("identity", 0, -1),
}
"""The plainest case of every purifier of the registry."""

SIDES = CASES | {
    "diffpure, 2 rounds": Case("diffpure(t_star=5,rounds=2)", 10, 4),
    "diffpure, sde": Case("diffpure(t_star=5,step_rule=sde)", 5, 4),
    "diffpure, fixed small": Case(
        "diffpure(t_star=5,step_rule=ddpm(variance=fixed_small,clip=true))", 5, 4
    ),
    "diffpure, t_star": Case("diffpure(t_star=5,start=t_star)", 6, 5),
    "diffpure, cosine": Case("diffpure(t_star=5,schedule=cosine(num_timesteps=50))", 5, 4),
    "revpure, scaled": Case("revpure(t_star=5,scale_input=true)", 5, 4),
    "revpure, ode": Case("revpure(t_star=5,step_rule=ode)", 5, 4),
    "ddim, few steps": Case(
        "ddim(t_star=5,num_steps=2,eta=1.0)",
        2,
        4,
        written="diffpure(t_star=5,step_rule=ddim(eta=1.0,num_steps=2))",
    ),
    "resized, nested": Case(
        "resized(purifier=resized(purifier=one_shot(t_star=5,clip=false),image_size=2),"
        "image_size=4)",
        1,
        4,
    ),
}


def toy(a, x, t):
    """An elementwise denoiser with a parameter."""
    return a * jnp.tanh(x + t / 1000)


DENOISER = jax.tree_util.Partial(toy, 0.7)


def make(case, denoiser=DENOISER):
    return specs.build(PURIFIERS, SIDES[case].spec, denoiser=denoiser)


def images(n=4):
    return jnp.asarray(np.random.default_rng(0).random((n, *SHAPE), dtype=np.float32))


def keys(n=4, seed=0):
    return jax.random.split(jax.random.key(seed), n)
