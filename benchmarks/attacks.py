"""PGD and APGD on the CIFAR-10 classifier: jaxpure's, and Foolbox's on JAX.

The images are uniform noise with the classes that the classifier gives them, and no attack
stops early: the policy `fixed` does not replay what judges.
"""

import jax
import numpy as np

import jaxpure as jp
from benchmarks import sharded
from benchmarks.images import uniform
from benchmarks.works import Task
from jaxpure import attacks
from jaxpure.policy import PRESETS

CLASSIFIER, EPS, STEP_SIZE = "cifar10_classifier", 8 / 255, 2 / 255


def task(folder: str, attack: str, images: int, steps: int, devices: int | None) -> Task:
    """So many updates on so many images, one program."""
    del folder
    sharded.use(devices, images)
    defense = jp.defense("identity", CLASSIFIER)
    options = {"step_size": STEP_SIZE} if attack == "pgd" else {}
    chosen = attacks.ATTACKS[attack](num_steps=steps, **options)
    objective, ball = chosen.objective(defense, PRESETS["fixed"]), attacks.Linf(EPS)
    x = uniform(images)
    y = jax.jit(lambda d, x: jax.vmap(lambda x: d(None, x).argmax(-1))(x))(defense, x)
    keys = jax.random.split(jax.random.key(0), images)

    def one(attack, objective, ball, key, x, y):
        found = attacks.search(attack, objective, ball, key, x, y)
        return found.adversarial, found.evaluations

    run, last = sharded.spread(one, (chosen, objective, ball), (keys, x, np.asarray(y))), {}

    def call() -> None:
        last["evaluations"] = run()[1]

    def facts() -> dict[str, float]:
        forward = sharded.operations(lambda d, x: d(None, x), defense, x[0])
        evaluations = float(np.max(np.asarray(last["evaluations"])))
        return {
            "evaluations": evaluations,
            "operations": 2 * evaluations * images * forward,  # forward, and back
            "devices": jax.device_count(),
        }

    return Task(call, facts)


def foolbox_pgd(folder: str, images: int, steps: int) -> Task:
    """Foolbox's loop around a gradient that JAX compiles."""
    del folder
    import foolbox

    from jaxpure.interop.foolbox import foolbox_model

    model = foolbox_model(jp.defense("identity", CLASSIFIER), jax.random.key(0))
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=steps)
    x = jax.numpy.asarray(uniform(images))
    y = model(x).argmax(-1)
    return Task(lambda: np.asarray(attack(model, x, y, epsilons=EPS)[0]), dict)
