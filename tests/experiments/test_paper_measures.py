"""The measurements themselves, of a defense whose Jacobian is known in closed form."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dissect.toys import gaussian_denoiser, gaussian_gain
from etils import epath

from experiments.config import PaperConfig, by_name
from experiments.paper import __main__ as program
from experiments.paper import measures, page, plans, study
from experiments.paper.asks import ask
from experiments.paper.sections import SECTIONS
from jaxpure.diffusion import Ddim, Linear
from jaxpure.evaluation.statistics import correct
from jaxpure.keys import defense_key, example_key, stream
from jaxpure.purifiers import DiffPure

pytestmark = pytest.mark.long  # seventeen programs are compiled

T_STAR = 20
PURIFIER = f"diffpure(t_star={T_STAR},schedule=linear(100))"
SWEEP = tuple(
    f"{kind}(t_star={t},schedule=linear(100))"
    for kind in ("diffpure", "revpure")
    for t in (10, T_STAR)
)
SIZE = 64
DEVIATION = np.linspace(0.2, 1.0, SIZE)


def linear(weights, x):
    return (x.reshape(-1) - 0.5) @ weights


def network(name):
    """In place of weights on disk: a Gaussian's best denoiser, a linear classifier."""
    if name == "classifier":
        weights = np.random.default_rng(0).normal(size=(SIZE, 10))
        return jax.tree_util.Partial(linear, jnp.asarray(weights, jnp.float32))
    shape = (8, 8, 1)
    deviation = jnp.asarray(DEVIATION.reshape(shape), jnp.float32)
    return gaussian_denoiser(jnp.zeros(shape), deviation)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study of six images, all of whose measurements are made."""
    patch = pytest.MonkeyPatch()
    fake = types.SimpleNamespace(load=network, digest=lambda name: name)
    patch.setattr(study, "weights", fake)
    study._purifier.cache_clear(), study._digest.cache_clear()
    plan = dataclasses.replace(
        plans.quick(by_name("digits_paper", PaperConfig)),
        num_examples=6,
        cloud_images=6,
        denoiser="denoiser",
        classifier="classifier",
        purifier=PURIFIER,
        sweep=SWEEP,
        batch_size=4,
        directions=64,
        num_steps=4,
        cloud=6,
        judging_keys=4,
        matrix_keys=2,
        path_steps=2,
    )
    folder = epath.Path(tmp_path_factory.mktemp("study"))
    found = study.Study(plan, folder, measures.MEASURES)
    # Labels as the classifier has them, so that most images are right to begin with.
    logits = np.stack(
        [linear(network("classifier").args[0], x) for x in found.dataset.floats()]
    )
    labels = logits.argmax(-1).astype(np.int32)
    found.dataset = dataclasses.replace(found.dataset, labels=labels)
    yield found
    patch.undo()
    study._purifier.cache_clear(), study._digest.cache_clear()


@pytest.fixture(scope="module")
def taken(made):
    asks = {name: section.asks(made.plan) for name, section in SECTIONS.items()}
    assert program.announce(made, [a for of in asks.values() for a in of]) > 0
    assert program.measure(made, asks) == {}
    return made


def of(taken, measure, **options):
    return taken.all(ask(measure, PURIFIER, "denoiser", **options))


def test_the_local_rate_is_the_jacobians(taken):
    gain = gaussian_gain(DEVIATION, T_STAR)
    found = of(taken, "rates")
    expected = np.sqrt(np.mean(gain**2))
    np.testing.assert_allclose(found["local"], expected, rtol=0.15)
    # The map is affine, so that no radius is too large.
    np.testing.assert_allclose(found["expected"], found["finite"], rtol=1e-2)
    assert (found["expected"] < expected * 1.05).all()
    attack = of(taken, "attack", policy="replay", gradient="exact")
    change = (attack["images"] - taken.dataset.floats()).reshape(6, -1)
    along = np.linalg.norm(gain * change, axis=1) / np.linalg.norm(change, axis=1)
    np.testing.assert_allclose(found["adversarial"], along, rtol=1e-3)


def test_of_an_affine_map_the_key_alone_moves_images(taken):
    grid = of(taken, "cloud")["grid"]
    between = grid - grid.mean(1, keepdims=True)  # of starts, under each key
    np.testing.assert_allclose(
        between, between[:, :, :1].repeat(grid.shape[2], 2), atol=1e-5
    )


def test_replay_finds_more_and_attacks_stay_in_the_ball(taken):
    plan, labels = taken.plan, taken.dataset.labels
    fates = {}
    for policy in ("fresh", "replay"):
        found = of(taken, "attack", policy=policy, gradient="exact")
        change = np.abs(found["images"] - taken.dataset.floats())
        assert change.max() <= plans.eps(plan) * (1 + 1e-5)
        fates[policy] = correct(found["logits"], labels)[:, 0].sum()
    assert fates["replay"] <= fates["fresh"]


def test_gradients_of_an_affine_purifier_do_not_hang_on_the_key(taken):
    found = of(taken, "gradients")
    names = ("bpda", "surrogate", "other_key", "eot")
    assert all(found[name].shape == (6, 2) for name in names)
    for name in ("bpda", "surrogate"):
        assert (found[name] > 0.5).all() and (found[name] <= 1 + 1e-5).all()


def test_thresholds_are_where_the_class_changes(taken):
    found, images = of(taken, "thresholds"), taken.dataset.floats()
    attack = of(taken, "attack", policy="replay", gradient="exact")
    direction = (attack["images"] - images).reshape(6, -1)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    weights = np.asarray(network("classifier").args[0])
    for i in range(6):

        def classes(s, i=i):
            return int(np.argmax((images[i].ravel() + s * direction[i] - 0.5) @ weights))

        s = found["at_image"][i]
        assert classes(0.98 * s) == classes(0)
        if s < measures.compression.FARTHEST * plans.eps(taken.plan) * 8 * 0.999:
            assert classes(1.02 * s) != classes(0)


def test_of_an_affine_map_the_rate_is_stable_and_gains_are_singular_values(taken):
    found = of(taken, "stability")
    gain = np.sort(gaussian_gain(DEVIATION, T_STAR))[::-1]
    leading = np.tile(gain[: measures.compression.SINGULAR], (len(found["singular"]), 1))
    np.testing.assert_allclose(found["singular"], leading, rtol=0.05)
    rates = found["rates"]
    same = np.broadcast_to(rates[:, :1, :, -1:], rates.shape)
    np.testing.assert_allclose(rates, same, rtol=2e-2)
    assert ((found["on"] >= 0) & (found["on"] <= 1 + 1e-5)).all()


def test_a_systems_threshold_is_where_its_class_changes(taken):
    found, images = of(taken, "thresholds"), taken.dataset.floats()
    attack = of(taken, "attack", policy="replay", gradient="exact")
    defense = jax.jit(taken.defense(ask("clean", PURIFIER, "denoiser")))
    direction = (attack["images"] - images).reshape(6, -1)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    for i in range(6):
        key = defense_key(example_key(taken.root, int(taken.indices[i])), 0)
        s = found["system_at_image"][i]
        places = [
            images[i] + f * s * direction[i].reshape(8, 8, 1) for f in (0, 0.98, 1.02)
        ]
        with jax.debug_key_reuse(False):
            own, before, after = (int(np.argmax(defense(key, x))) for x in places)
        assert own == before
        if s < measures.compression.FARTHEST * plans.eps(taken.plan) * 8 * 0.999:
            assert after != own


def test_correlations_by_part_are_of_draws_that_share_the_rest(taken):
    found = of(taken, "cloud")
    assert found["along"].shape == (6, 2 * T_STAR)
    assert np.abs(found["along"]).max() <= 1
    # What the chain ends with is what purification adds, whose correlation is known.
    whole = [np.corrcoef(c.reshape(len(c), -1)) for c in found["by_key"]]
    mean = [(m.sum() - len(m)) / (len(m) * (len(m) - 1)) for m in whole]
    np.testing.assert_allclose(found["along"][:, -1], mean, atol=0.25)
    for part in ("part_forward", "part_reverse"):
        assert (found[part] > np.array(mean) - 0.05).all()


def test_the_denoising_error_is_that_of_its_definition(taken):
    asked = ask("quality", PURIFIER, "denoiser")
    units = [measures.models.quality(taken, asked, rows) for rows in taken.batches(asked)]
    chain, denoiser = taken.purifier(asked).chain, network("denoiser")
    before = np.r_[float(taken.purifier(asked).signal), np.asarray(chain.signal)[:-1]]
    for i, x in enumerate(taken.dataset.floats()):
        key = stream(example_key(taken.root, int(taken.indices[i])), "paper/quality")
        noise = jax.random.normal(key, x.shape)
        errors = []
        for level in (0, 6, 12, 19):
            noisy = before[level] ** 0.5 * (2 * x - 1) + (1 - before[level]) ** 0.5 * noise
            predicted = denoiser(noisy, jnp.asarray(chain.labels[level]))
            errors.append(np.mean((np.asarray(predicted) - np.asarray(noise)) ** 2))
        found = np.concatenate([unit["error"] for unit in units])[i]
        np.testing.assert_allclose(found, np.mean(errors), rtol=1e-4)


def test_samples_are_made_from_the_last_noise_level_and_seen_by_the_classifier(taken):
    asked = ask("samples", PURIFIER, "denoiser")
    rows = taken.batches(asked)[0]
    found, classifier = measures.models.samples(taken, asked, rows), network("classifier")
    model = DiffPure(network("denoiser"), 100, Ddim(eta=1.0, num_steps=50), Linear(100))
    key = defense_key(example_key(taken.root, int(rows.indices[1])), 2)
    expected = classifier(model(key, jnp.asarray(rows.images[1])))
    np.testing.assert_allclose(found["made"][1, 2], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        found["real"], jax.vmap(classifier)(rows.images), rtol=1e-4, atol=1e-5
    )


def test_the_page_of_it_is_whole(taken, tmp_path):
    reports = {n: program._report(taken, n, tuple(SECTIONS), {}) for n in SECTIONS}
    text = page.write(tmp_path, "Gaussian", reports, []).read_text()
    lines = sorted(f.relation for r in reports.values() for f in r.findings)
    assert lines == list(range(1, 18))
    assert (tmp_path / "figures" / "sweep_seconds_RevPure.csv").exists()
    assert text.count("data:image/svg+xml") == sum(len(r.figures) for r in reports.values())
    assert taken.missing(a for s in SECTIONS.values() for a in s.asks(taken.plan)) == []
