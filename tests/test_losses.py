"""Every registered loss against its formula in numpy, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attacks.cases import LOSS_CASES
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from jaxpure.errors import UserError
from jaxpure.losses import LOSSES, is_ratio, is_targeted, loss_of

CLASSES = 5


def best_wrong(z, y, t):
    del t
    return np.delete(z, y).max()


def spread(z, rank):
    return np.sort(z)[::-1][0] - rank(np.sort(z)[::-1])


FORMULAS = {  # of logits, label and target, in float64
    "cross_entropy": lambda z, y, t: special.logsumexp(z) - z[y],
    "margin": lambda z, y, t: best_wrong(z, y, t) - z[y],
    "dlr": lambda z, y, t: (best_wrong(z, y, t) - z[y]) / spread(z, lambda s: s[2]),
    "targeted_margin": lambda z, y, t: z[t] - z[y],
    "targeted_dlr": lambda z, y, t: (z[t] - z[y]) / spread(z, lambda s: (s[2] + s[3]) / 2),
}

numbers = st.floats(-50, 50, width=32, allow_subnormal=False)
logits_lists = st.lists(numbers, min_size=CLASSES, max_size=CLASSES, unique=True)
pairs = st.permutations(range(CLASSES)).map(lambda order: order[:2])


@jax.jit
def values_and_gradients(logits, label, target):
    """By name: the loss `()` and its gradient `(classes,)`."""
    return {
        name: jax.value_and_grad(loss_of(name, label, target))(logits) for name in LOSSES
    }


def test_every_registered_loss_has_a_formula():
    assert set(FORMULAS) == set(LOSSES)


@settings(deadline=None, max_examples=60)
@given(logits_lists, pairs)
def test_losses_are_what_they_say(values, pair):
    logits, (label, target) = np.array(values, np.float32), pair
    found = values_and_gradients(logits, jnp.int32(label), jnp.int32(target))
    wide = logits.astype(np.float64)
    ordered = np.sort(wide)[::-1]
    for name, (value, gradient) in found.items():
        assert np.isfinite(gradient).all(), name
        if name.endswith("dlr") and ordered[0] - ordered[2] < 1e-3:
            continue  # the quotient of two rounding errors
        expected = FORMULAS[name](wide, label, target)
        assert float(value) == pytest.approx(expected, rel=2e-5, abs=2e-5), name
        # A shift of all logits changes nothing; and no loss but the targeted ratio, where
        # the true class is first and the target far behind, wants the true class to win.
        gradient = np.asarray(gradient, np.float64)
        small = 1e-5 * (np.abs(gradient).max() + 1 / (ordered[0] - ordered[2]))
        assert abs(gradient.sum()) <= small, name
        assert gradient[label] <= small or name == "targeted_dlr", name


def look(logits, label, target):
    return values_and_gradients(jnp.asarray(logits, jnp.float32), label, target)


def test_wrong_is_above_zero_where_the_loss_has_a_sign():
    """Margins and their ratios; a targeted one where it is the target that wins."""
    logits = [1.0, 3.0, 2.0, -1.0, 0.0]
    for label, target, wrong in ((1, 2, False), (0, 1, True), (2, 1, True)):
        for name, (value, _) in look(logits, label, target).items():
            assert name == "cross_entropy" or (float(value) > 0) == wrong, name


@pytest.mark.parametrize(
    "logits",
    [[0.0] * CLASSES, [1e30, 0.0, -1e30, 5.0, 2.0], [1e-30, 0.0, 0.0, 0.0, 0.0]],
)
def test_extreme_and_equal_logits_have_finite_gradients(logits):
    for name, (value, gradient) in look(logits, 0, 1).items():
        assert np.isfinite(value) and np.isfinite(gradient).all(), name


def test_ratios_alone_do_not_see_scale():
    logits = np.array([2.0, 1.0, 0.5, -1.0, 0.2])
    for label, target in ((0, 2), (3, 0)):
        before = look(logits, label, target)
        for scale, shift in ((100.0, 7.0), (0.01, -3.0)):
            after = look(scale * logits + shift, label, target)
            for name in LOSSES:
                one, other = (float(each[name][0]) for each in (before, after))
                assert (other == pytest.approx(one, rel=1e-4)) == is_ratio(name), name


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_needs_so_many_classes_and_no_more(name):
    fewest, loss = LOSS_CASES[name], loss_of(name, jnp.int32(0), jnp.int32(1))
    assert jax.eval_shape(loss, jnp.zeros(fewest)).shape == ()
    if fewest > 2:
        message = f"{name} loss needs at least {fewest} classes, got {fewest - 1}"
        with pytest.raises(UserError, match=message):
            jax.eval_shape(loss, jnp.zeros(fewest - 1))


def test_targeted_ones_look_at_the_target():
    logits = [2.0, 1.0, 0.5, -1.0, 0.2]
    for name in LOSSES:
        values = {float(look(logits, 0, target)[name][0]) for target in (1, 2, 3)}
        assert len(values) == (3 if is_targeted(name) else 1), name
