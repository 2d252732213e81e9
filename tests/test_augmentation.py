"""Augmentation: images are cut, moved and mirrored, each way as often as any other."""

import itertools

import jax
import numpy as np
import pytest

from jaxpure import training

IMAGE = np.arange(1, 1 + 2 * 4 * 3, dtype=np.float32).reshape(4, 3, 2)


def augmented(augmentation, n=400):
    keys = jax.random.split(jax.random.key(0), n)
    return np.asarray(jax.jit(jax.vmap(augmentation, (0, None)))(keys, IMAGE))


def counts(results, possible):
    """How often each of the possible images came; there must be no other."""
    found = [sum(np.array_equal(r, p) for r in results) for p in possible]
    assert sum(found) == len(results)
    return np.array(found)


def shifted(dy, dx):
    padded = np.pad(IMAGE, [(2, 2), (2, 2), (0, 0)])
    return padded[2 + dy : 6 + dy, 2 + dx : 5 + dx]


def test_no_augmentation_leaves_the_image():
    assert counts(augmented(training.Augmentation(), 5), [IMAGE]) == [5]


def test_flip_mirrors_half_of_the_images():
    found = counts(augmented(training.Augmentation(flip=True)), [IMAGE, IMAGE[:, ::-1]])
    assert abs(found[0] - 200) < 5 * np.sqrt(100)


@pytest.mark.parametrize("shift", [1, 2])
def test_shift_moves_by_whole_pixels_and_fills_with_nothing(shift):
    offsets = range(-shift, shift + 1)
    possible = [shifted(dy, dx) for dy, dx in itertools.product(offsets, offsets)]
    found = counts(augmented(training.Augmentation(shift=shift)), possible)
    expected = 400 / len(possible)
    assert found.min() > 0 and found.max() < expected + 5 * np.sqrt(expected)


def test_a_shift_may_uncover_the_image_mirrored_at_its_edge():
    padded = np.pad(IMAGE, [(1, 1), (1, 1), (0, 0)], mode="reflect")
    possible = [padded[i : i + 4, j : j + 3] for i in range(3) for j in range(3)]
    found = counts(augmented(training.Augmentation(shift=1, reflect=True)), possible)
    assert found.min() > 0


def test_a_crop_is_any_part_of_its_size():
    possible = [IMAGE[i : i + 2, j : j + 2] for i in range(3) for j in range(2)]
    found = counts(augmented(training.Augmentation(crop=2)), possible)
    assert found.min() > 0 and found.max() < 400 / 6 + 5 * np.sqrt(400 / 6)
    whole = augmented(training.Augmentation(crop=3), 50)
    assert whole.shape == (50, 3, 3, 2)


def test_shift_and_flip_are_independent():
    possible = [
        image
        for dy, dx in itertools.product((-1, 0, 1), (-1, 0, 1))
        for image in (shifted(dy, dx), shifted(dy, dx)[:, ::-1])
    ]
    found = counts(augmented(training.Augmentation(shift=1, flip=True)), possible)
    assert found.min() > 0
    assert abs(found[::2].sum() - 200) < 5 * np.sqrt(100)
