"""BPDA+EOT by Hill et al.: what it breaks, and what it verifies on draws of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure.attacks import L2, BpdaEotHill, Linf
from jaxpure.defenses import PurifiedClassifier
from jaxpure.keys import noise_at, part
from jaxpure.policy import PRESETS, attack_keys

from . import toys

BALLS = {"linf": Linf, "l2": L2}


@pytest.mark.parametrize("norm", BALLS)
def test_it_breaks_exactly_what_can_be_broken(norm):
    """It stops where the image falls: which is nowhere, or by the worst case at last."""
    x, defense, unit = toys.plane(0.1, norm)
    for eps, falls in ((0.095, False), (0.105, True)):
        attack = BpdaEotHill(eps / 4, num_steps=5, eot_samples=2, verify_samples=3)
        row = jax.random.key(0), x, 1
        progress = toys.final(attack, defense, BALLS[norm](eps), *row).progress
        assert (int(progress.broken_at) >= 0) == falls
        # The last evaluation, where it can be reached at last; verifying is none.
        assert int(progress.evaluations) == (5 if falls else 6)
        np.testing.assert_allclose(progress.adversarial, x - eps * unit, atol=2e-6)


def bent(key, x):
    return x + noise_at(part(key, "forward"), 0, x)


def by_sum(x):
    return jnp.stack([jnp.zeros((), x.dtype), jnp.sum(x) - x.size / 2])


NOISY = PurifiedClassifier(*map(jax.tree_util.Partial, (bent, by_sum)))


@pytest.mark.parametrize(("eot_samples", "verify_samples"), [(2, 3), (2, 0)])
def test_it_verifies_on_draws_of_its_own(eot_samples, verify_samples):
    """Where an image falls, from the keys alone: the noise decides, the image does not.

    An evaluation that looks broken is verified on `verify_samples` selection draws of the
    same step, no more and no fewer, and breaks by their mean.
    """
    options = {"eot_samples": eot_samples, "verify_samples": verify_samples}
    attack, fresh = BpdaEotHill(num_steps=4, **options), PRESETS["fresh"]
    objective, x = attack.objective(NOISY, fresh), jnp.full(toys.SHAPE, 0.5)
    calls = attack.budget(objective).calls
    chunks = -(-verify_samples // eot_samples)
    assert calls == 5 * (1 + chunks)

    def margins(key, role, count):
        def of(step):
            keys = attack_keys(fresh, role, jax.random.clone(key), step, count)
            return jnp.mean(jax.vmap(lambda k: NOISY(k, x)[1])(keys))

        return jax.vmap(of)(jnp.arange(5))

    @jax.jit
    @jax.vmap
    def one(seed):
        """The end of a search, the calls that it took, and the mean margins."""
        key = jax.random.key(seed)

        def call(carry, _):
            state, taken = carry
            taken += ~state.progress.done
            after = attack.step(objective, Linf(0.0), state)
            keep = lambda a, b: jnp.where(state.progress.done, b, a)  # noqa: E731
            progress = jax.tree.map(keep, after.progress, state.progress)
            return (after._replace(progress=progress), taken), None

        state = attack.init(objective, Linf(0.0), key, x, jnp.int32(0))
        (state, taken), _ = jax.lax.scan(call, (state, jnp.int32(0)), None, calls)
        verified = margins(key, "selection", max(verify_samples, 1))
        return state.progress, taken, margins(key, "gradient", eot_samples), verified

    progress, taken, attacked, verified = one(jnp.arange(25))
    looks_broken = np.asarray(attacked) > 0
    broken = looks_broken & (np.asarray(verified) > 0) if verify_samples else looks_broken
    fell = broken.any(1)
    expected = np.where(fell, broken.argmax(1), -1)
    np.testing.assert_array_equal(progress.broken_at, expected)
    evaluations = np.where(fell, expected + 1, 5)
    np.testing.assert_array_equal(progress.evaluations, evaluations)
    assert progress.done.all() and len(set(expected.tolist())) > 2
    # Each look that seems broken costs the verification's calls, falling or not.
    made = np.arange(5) < evaluations[:, None]
    tried = np.sum(looks_broken & made, 1)
    np.testing.assert_array_equal(taken, evaluations + chunks * tried)


def test_the_mean_of_replayed_logits_is_one_draws():
    """A power of two of the same logits, whose mean rounds nothing."""
    key, x, label = toys.example(3)
    found = []
    for n in (1, 4):
        attack = BpdaEotHill(0.03, num_steps=3, eot_samples=n, verify_samples=4)
        row = jax.random.clone(key), x, label
        found.append(toys.final(attack, toys.DEFENSE, Linf(0.1), *row, "replay").progress)
    np.testing.assert_array_equal(found[0].adversarial, found[1].adversarial)
    assert int(found[0].broken_at) == int(found[1].broken_at)
