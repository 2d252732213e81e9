"""Paths, distances, projections; SSIM against a direct formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure.dissect import denoising
from jaxpure.dissect.results import summarise
from jaxpure.dissect.similarity import ssim
from jaxpure.purifiers import DiffPure, Identity
from tests.dissect import toys

T_STAR = 20
KEY = jax.random.key(0)
X = jax.random.uniform(jax.random.key(1), toys.SHAPE)
D = 0.1 * jax.random.normal(jax.random.key(2), toys.SHAPE)
DEVIATION = jnp.linspace(0.05, 0.8, toys.SIZE).reshape(toys.SHAPE)
PURIFIER = toys.gaussian_purifier(jnp.full(toys.SHAPE, 0.1), DEVIATION, t_star=T_STAR)


def classifier(x):
    return jnp.stack([x[0, 0, 0], x[1, 0, 0], jnp.float32(0.2)])


def test_a_path_begins_at_the_image_and_ends_at_the_purified_one():
    found = denoising.path(PURIFIER, KEY, X)
    assert found.states.shape == (2 * T_STAR + 1, *toys.SHAPE)
    np.testing.assert_allclose(found.states[0], X, atol=1e-6)
    np.testing.assert_allclose(found.states[-1], PURIFIER(KEY, X), atol=1e-6)
    assert int(found.forward.sum()) == T_STAR + 1 and found.forward[T_STAR]
    trajectory = PURIFIER.trajectory(KEY, X)
    noised, denoised = (trajectory.noised + 1) / 2, (trajectory.denoised + 1) / 2
    np.testing.assert_allclose(found.states[:T_STAR], noised[::-1], atol=1e-6)
    np.testing.assert_allclose(found.states[T_STAR + 1 :], denoised, atol=1e-6)
    np.testing.assert_allclose(
        found.signal[T_STAR], toys.SCHEDULE.alphas_cumprod[T_STAR - 1]
    )


def test_revpure_has_no_forward_phase():
    purifier = toys.gaussian_purifier(jnp.zeros(toys.SHAPE), DEVIATION, forward=False)
    found = denoising.path(purifier, KEY, X)
    assert len(found.states) == T_STAR + 1 and int(found.forward.sum()) == 1
    np.testing.assert_allclose(found.states[0], X, atol=1e-6)
    np.testing.assert_allclose(found.states[-1], purifier(KEY, X), atol=1e-6)


def test_what_has_no_path_is_told_so():
    with pytest.raises(ValueError, match="Identity has no path"):
        denoising.path(Identity(), KEY, X)
    twice = DiffPure(PURIFIER.denoiser, t_star=5, schedule=toys.SCHEDULE, rounds=2)
    with pytest.raises(ValueError, match="rounds=1"):
        denoising.path(twice, KEY, X)


def test_the_paired_projection_is_flat_forward_and_falls_by_the_known_gain_reverse():
    found = denoising.fate(PURIFIER, classifier, KEY, X, D, jnp.int32(0))
    forward = jnp.sqrt(found.path.signal[: T_STAR + 1])
    np.testing.assert_allclose(found.paired.along[: T_STAR + 1], forward, rtol=1e-4)
    np.testing.assert_allclose(found.paired.orthogonal[: T_STAR + 1], 0, atol=1e-3)
    gain = toys.gaussian_gain(np.asarray(DEVIATION, np.float64), T_STAR)
    d = np.asarray(D, np.float64)
    along = (gain * d * d).sum() / (d * d).sum()
    across = np.sqrt(((gain * d - along * d) ** 2).sum() / (d * d).sum())
    np.testing.assert_allclose(found.paired.along[-1], along, rtol=1e-3)
    np.testing.assert_allclose(found.paired.orthogonal[-1], across, rtol=1e-2)
    assert along < 0.7
    np.testing.assert_allclose(found.projection.along[0], 1, rtol=1e-5)


def test_rescaling_undoes_the_signal_s_shrinking():
    found = denoising.fate(PURIFIER, classifier, KEY, X, D, jnp.int32(0), rescale=True)
    np.testing.assert_allclose(found.paired.along[: T_STAR + 1], 1, rtol=1e-4)


def test_distances_and_margins_of_plain_states():
    states = jnp.stack([X, X + 0.5])
    found = denoising.distances(states, X)
    np.testing.assert_allclose(found.l2, [0, 0.5 * toys.SIZE**0.5], rtol=1e-5)
    np.testing.assert_allclose(found.linf, [0, 0.5], rtol=1e-5)
    np.testing.assert_allclose(found.ssim[0], 1, rtol=1e-6)
    assert found.ssim[1] < 0.9
    logits = jnp.array([3.0, 1.0, 2.5])
    assert denoising.margin(logits, jnp.int32(0)) == 0.5
    assert denoising.margin(logits, jnp.int32(1)) == -2.0
    assert jnp.isnan(denoising.margin(logits.at[2].set(jnp.nan), jnp.int32(0)))


def test_projection_splits_a_displacement_exactly():
    displacement = jnp.stack([2 * D, D[::-1]])
    found = denoising.project(displacement, D)
    np.testing.assert_allclose(found.along[0], 2, rtol=1e-5)
    np.testing.assert_allclose(found.orthogonal[0], 0, atol=1e-5)
    whole = float(jnp.sum(D[::-1] ** 2) / jnp.sum(D**2))
    np.testing.assert_allclose(
        found.along[1] ** 2 + found.orthogonal[1] ** 2, whole, rtol=1e-5
    )
    random = denoising.random_like(KEY, D)
    np.testing.assert_allclose(jnp.linalg.norm(random), jnp.linalg.norm(D), rtol=1e-5)


@pytest.mark.parametrize("shape", [(20, 15, 3), (8, 8, 1), (11, 11, 1)])
def test_ssim_against_the_formula_written_out(shape):
    rng = np.random.default_rng(0)
    a = rng.uniform(size=shape)
    b = np.clip(a + 0.2 * rng.standard_normal(shape), 0, 1)
    sides = [min(11, side if side % 2 else side - 1) for side in shape[:2]]
    grids = [np.arange(side) - side // 2 for side in sides]
    window = np.exp(-(grids[0][:, None] ** 2 + grids[1][None] ** 2) / (2 * 1.5**2))
    window = window / window.sum()
    values = []
    for i in range(shape[0] - sides[0] + 1):
        for j in range(shape[1] - sides[1] + 1):
            for c in range(shape[2]):
                pa = a[i : i + sides[0], j : j + sides[1], c]
                pb = b[i : i + sides[0], j : j + sides[1], c]
                ma, mb = (window * pa).sum(), (window * pb).sum()
                va = (window * (pa - ma) ** 2).sum()
                vb = (window * (pb - mb) ** 2).sum()
                cov = (window * (pa - ma) * (pb - mb)).sum()
                values.append(
                    (2 * ma * mb + 1e-4)
                    * (2 * cov + 9e-4)
                    / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
                )
    found = ssim(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    np.testing.assert_allclose(found, np.mean(values), rtol=1e-4)


def test_ssim_refuses_images_of_two_shapes():
    with pytest.raises(ValueError, match="expected one shape"):
        ssim(jnp.zeros((4, 4, 1)), jnp.zeros((4, 5, 1)))


def test_a_fate_over_images_becomes_a_curve_with_intervals():
    images = jax.random.uniform(jax.random.key(7), (6, *toys.SHAPE))
    keys = jax.random.split(jax.random.key(8), 6)
    run = jax.jit(
        jax.vmap(
            lambda key, x: denoising.fate(PURIFIER, classifier, key, x, D, jnp.int32(0))
        )
    )
    found = run(keys, images)
    axis = denoising.steps_of(jax.tree.map(lambda a: a[0], found.path))
    table = summarise("fate", "test", {"l2": found.distances.l2}, axis=axis)
    assert len(table) == 2 * T_STAR + 1 and list(table["phase"][[0, -1]]) == [
        "forward",
        "reverse",
    ]
    low, high = table.interval("l2")
    assert (low <= table["l2"]).all() and (table["l2"] <= high).all()
    np.testing.assert_allclose(table["l2"], found.distances.l2.mean(0), rtol=1e-5)
