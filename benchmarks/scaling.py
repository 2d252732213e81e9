"""How the cost of a gradient grows: jaxpure alone, a small network.

One gradient of the loss of a purified classifier, averaged over draws, for a batch: a step
of an attack. The classifier is of no weight: ten pixels are its logits.
"""

import jax
import jax.numpy as jnp

from benchmarks import sharded
from benchmarks.images import uniform
from benchmarks.works import Task
from jaxpure import models
from jaxpure.defenses import PurifiedClassifier
from jaxpure.objective import Objective
from jaxpure.policy import PRESETS
from jaxpure.purifiers import DiffPure


def task(folder: str, batch: int, steps: int, draws: int, size: int, devices: int) -> Task:
    """A gradient of `batch` images of `size` pixels through `steps`, over `draws` draws."""
    del folder
    sharded.use(devices, batch)
    network = models.UNet(
        image_size=size,
        channels=16,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(),
        num_groups=4,
    )
    purifier = DiffPure(models.create(network, jax.random.key(0)), t_star=steps)
    classifier = jax.tree_util.Partial(lambda x: jnp.ravel(x)[:10])
    defense = PurifiedClassifier(purifier, classifier)
    objective = Objective(defense, PRESETS["fresh"], eot_samples=draws)

    def one(objective, key, x):
        keys = objective.gradient_keys(key, jnp.zeros((), jnp.int32))
        return objective.gradient(keys, x, jnp.zeros((), jnp.int32)).gradient

    keys = jax.random.split(jax.random.key(1), batch)
    call = sharded.spread(one, (objective,), (keys, uniform(batch, (size, size, 3))))
    return Task(call, lambda: {"images": batch, "devices": jax.device_count()})
