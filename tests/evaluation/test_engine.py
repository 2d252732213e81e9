"""The engine: the same records whatever the devices, the neighbours and the kills."""

import dataclasses
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from jaxpure import attacks, data, gradients, randomness
from jaxpure.defenses import PurifiedClassifier
from jaxpure.evaluation import engine, evaluate, judge_again, load, records
from jaxpure.types import register_pytree

ROOT = jax.random.key(3)
KEYS = 3


def noisy(sigma, key, x):
    # By a folded key: the key-reuse checker takes a batched scan over keys that are used
    # up directly for a reuse, even of `split(key, n)`.
    return x + sigma * randomness.noise_at(key, 0, x)


def linear(weights, x):
    return jnp.tanh(3 * (x.reshape(-1) - 0.5)) @ weights


def examples(n):
    random = np.random.default_rng(0)
    images = random.uniform(size=(n, 4, 4, 1)).astype(np.float32)
    weights = random.normal(size=(16, 5)).astype(np.float32)
    labels = np.argmax(np.tanh(3 * (images.reshape(n, -1) - 0.5)) @ weights, -1)
    indices = np.arange(100, 100 + n)
    dataset = data.Dataset("toy", images, labels.astype(np.int32), indices, 5)
    return dataset, jax.tree_util.Partial(linear, jnp.asarray(weights))


def subset(dataset, chosen):
    arrays = (dataset.images, dataset.labels, dataset.indices)
    return data.Dataset(dataset.name, *(array[chosen] for array in arrays), 5)


def experiment(n, policy="replay", num_steps=6, classifier=None):
    dataset, trained = examples(n)
    classifier = classifier or trained
    purifier = jax.tree_util.Partial(noisy, 0.2)
    seen = PurifiedClassifier(gradients.bpda(purifier), classifier)
    attack = attacks.Pgd.create(
        seen,
        randomness.parse_policy(policy),
        eps=0.08,
        step_size=0.02,
        num_steps=num_steps,
        eot_samples=2,
    )
    return PurifiedClassifier(purifier, classifier), attack, dataset


def run(folder, defense, attack, dataset, *, devices=1, batch_size=4, **options):
    return evaluate(
        epath.Path(folder),
        defense,
        attack,
        dataset,
        root=ROOT,
        judging_keys=KEYS,
        batch_size=batch_size,
        mesh=engine.local_mesh(jax.devices()[:devices]),
        **options,
    )


def assert_same(a, b):
    for field in dataclasses.fields(a):
        one, other = getattr(a, field.name), getattr(b, field.name)
        np.testing.assert_array_equal(one, other, err_msg=field.name)


@pytest.mark.parametrize("policy", ["replay", "fresh"])
def test_records_are_those_of_a_plain_loop(tmp_path, policy):
    """One example at a time: bit for bit by the same program, to rounding by another."""
    defense, attack, dataset = experiment(9, policy)
    result = run(tmp_path / "all", defense, attack, dataset)
    for i in range(9):
        alone = run(tmp_path / str(i), defense, attack, subset(dataset, [i]))
        for field in dataclasses.fields(alone):
            one, among = getattr(alone, field.name)[0], getattr(result, field.name)[i]
            np.testing.assert_array_equal(one, among, err_msg=field.name)

    @jax.jit
    def step(attack, states):
        moved = jax.vmap(attack.step)(states)
        return jax.vmap(randomness.choose)(states.done, states, moved)

    for i in range(len(dataset)):
        key = randomness.example_key(ROOT, dataset.indices[i])
        repeat = lambda x: jnp.stack([jnp.asarray(x)] * 4)  # noqa: E731
        states = jax.vmap(attack.init)(
            repeat(key), repeat(dataset.images[i]), repeat(dataset.labels[i])
        )
        left_alone = policy == "replay" and not result.clean[i, 0]
        while not left_alone and not states.done[0]:
            states = step(attack, states)
        expected = dataset.images[i] if left_alone else states.adversarial[0]
        np.testing.assert_allclose(result.images[i], expected, atol=1e-6)
        if not left_alone:
            assert result.evaluations[i] == states.step[0]
            assert result.broken_at[i] == states.broken_at[0]


@pytest.mark.parametrize("n", [7, 8, 9, 41])  # slots - 1, slots, slots + 1, 5 slots + 1
def test_devices_do_not_matter(tmp_path, n):
    defense, attack, dataset = experiment(n)
    results = [
        run(tmp_path / str(devices), defense, attack, dataset, devices=devices)
        for devices in (1, 2, 8)
    ]
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])
    assert 0 < results[0].robust[:, 0].mean() < 1  # something fell and something stood


def test_order_and_neighbours_do_not_matter(tmp_path):
    defense, attack, dataset = experiment(13)
    order = np.random.default_rng(1).permutation(13)[:9]
    whole = run(tmp_path / "a", defense, attack, dataset)
    some = run(tmp_path / "b", defense, attack, subset(dataset, order))
    for field in dataclasses.fields(whole):
        one, other = getattr(whole, field.name), getattr(some, field.name)
        np.testing.assert_array_equal(one[order], other, err_msg=field.name)


def test_batch_sizes_meet_the_same_noise(tmp_path):
    defense, attack, dataset = experiment(13)
    results = [
        run(tmp_path / str(size), defense, attack, dataset, batch_size=size)
        for size in (1, 7, 64)
    ]
    for other in results[1:]:
        np.testing.assert_allclose(
            results[0].clean_logits, other.clean_logits, rtol=1e-5, atol=1e-5
        )

    def reveal(key, x):
        return randomness.noise_at(key, 0, x).reshape(-1)[:5]

    noise = [
        engine.judge(
            jax.tree_util.Partial(reveal),
            attack.policy,
            ROOT,
            dataset.indices,
            dataset.images,
            keys=KEYS,
            batch_size=size,
            mesh=engine.local_mesh(jax.devices()[:1]),
        )
        for size in (1, 7, 64)
    ]
    np.testing.assert_array_equal(noise[0], noise[1])
    np.testing.assert_array_equal(noise[0], noise[2])


PGD_FIELDS = {
    "data_fields": ["objective", "eps", "step_size", "num_steps", "momentum"],
    "meta_fields": ["norm", "random_start", "criterion", "iterate"],
}


@partial(register_pytree, **PGD_FIELDS)
class Outside(attacks.Pgd):
    def _ascend(self, state, gradient):
        return state._replace(x=state.x + 0.05)


@partial(register_pytree, **PGD_FIELDS)
class Below(attacks.Pgd):
    def _ascend(self, state, gradient):
        return state._replace(x=state.original - 0.03)


def test_what_the_attacks_own_draws_said_is_recorded(tmp_path):
    """The most draws that any iterate fooled, as a plain loop over its steps finds it."""
    defense, attack, dataset = experiment(9, "fresh", num_steps=5)
    result = run(tmp_path / "fresh", defense, attack, dataset)
    step = jax.jit(attack.step)
    for i, index in enumerate(dataset.indices):
        if result.attack_calls[i] == 0:  # wrong under every key to begin with
            assert result.fooled[i] == 1 and result.outvoted[i]
            continue
        key = randomness.example_key(ROOT, int(index))
        state = attack.init(key, dataset.floats()[i], dataset.labels[i])
        shares = []
        for _ in range(6):
            where = (jax.random.clone(state.key), state.step, state.x)
            logits = np.asarray(attack.objective.selection_logits(*where))
            shares.append(np.mean(logits.argmax(1) != dataset.labels[i]))
            state = step(state)
        assert result.fooled[i] == pytest.approx(max(shares))
    assert 0 < np.mean(result.fooled > 0.5) and np.mean(result.fooled < 1) > 0
    queries = attacks.Square.create(defense, attack.policy, eps=0.08, num_queries=3)
    silent = run(tmp_path / "silent", defense, queries, dataset)
    tried = silent.attack_calls > 0
    assert np.isnan(silent.fooled[tried]).all() and not silent.outvoted[tried].any()


def test_a_flow_beyond_its_bound_is_refused(tmp_path):
    defense, _, dataset = experiment(4)
    options = {"flow_bound": 0.4, "num_steps": 3}
    attack = attacks.Stadv.create(defense, randomness.PRESETS["fresh"], **options)
    assert run(tmp_path / "fine", defense, attack, dataset).linf.max() > 0.01

    @partial(
        register_pytree,
        data_fields=["objective", "flow_bound", "num_steps", "tau"],
        meta_fields=["random_start", "criterion"],
    )
    class Farther(attacks.Stadv):
        eps = 0.1

    farther = Farther(attack.objective, 0.4, 3, 0.05)
    with pytest.raises(ValueError, match=r"flow distance .* \(eps 0.1\)"):
        run(tmp_path / "far", defense, farther, dataset)


class Killed(Exception):
    pass


def test_killed_and_resumed_is_the_same_as_unbroken(tmp_path):
    defense, attack, dataset = experiment(21, "fresh", num_steps=12)
    whole = run(tmp_path / "whole", defense, attack, dataset)
    countdown = [0]

    def kill(*progress):
        countdown[0] -= 1
        if countdown[0] == 0:
            raise Killed

    folder = tmp_path / "killed"
    with (
        mock.patch.object(engine, "SNAPSHOT_SECONDS", 0),
        mock.patch.object(engine, "CALL_SECONDS", 1e-9),  # one step a call
    ):
        for after in (3, 20, 30):
            countdown[0] = after
            with pytest.raises(Killed):
                run(folder, defense, attack, dataset, progress=kill)
        snapshot = folder / "under_way-000.safetensors"
        assert snapshot.exists()
        steps_before = _steps_taken(folder)
        part = sorted((folder / "clean").iterdir())[-1]
        part.write_bytes(part.read_bytes()[:-25])
        calls = []
        real = engine._advance(engine.local_mesh(jax.devices()[:1]))
        with mock.patch.object(
            engine, "_advance", lambda mesh: lambda *a: calls.append(1) or real(*a)
        ):
            resumed = run(folder, defense, attack, dataset)
    assert_same(whole, resumed)
    assert not snapshot.exists()
    # The states under way went on from the snapshot: fewer steps than from the start.
    left = 21 - steps_before
    assert len(calls) < -(-left // 4) * 13


def _steps_taken(folder):
    return len(list((folder / "attacked").glob("*.jsonl"))) * 4


def test_a_broken_snapshot_costs_only_time(tmp_path):
    defense, attack, dataset = experiment(6)
    whole = run(tmp_path / "a", defense, attack, dataset)
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "under_way-000.safetensors").write_bytes(b"cut short")
    assert_same(whole, run(folder, defense, attack, dataset))


def test_judged_again(tmp_path):
    defense, attack, dataset = experiment(6)
    result = run(tmp_path, defense, attack, dataset)
    again = {
        seed: judge_again(
            result,
            defense,
            attack.policy,
            root=jax.random.key(seed),
            judging_keys=KEYS,
            batch_size=4,
            mesh=engine.local_mesh(jax.devices()[:1]),
        )
        for seed in (3, 4)
    }
    np.testing.assert_array_equal(again[3], result.logits)
    assert not np.array_equal(again[4], result.logits)


def test_what_is_wrong_to_begin_with_is_left_alone(tmp_path):
    defense, attack, dataset = experiment(8)
    wrong = data.Dataset(
        "toy", dataset.images, (dataset.labels + 1) % 5, dataset.indices, 5
    )
    result = run(tmp_path, defense, attack, wrong)
    alone = ~result.clean[:, 0]
    assert alone.any()
    np.testing.assert_array_equal(result.images[alone], dataset.images[alone])
    assert (result.attack_calls[alone] == 0).all()
    assert not result.robust[alone, 0].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_never_robust(tmp_path, bad):
    weights = np.ones((16, 5), np.float32)
    weights[:, 2] = bad
    defense, attack, dataset = experiment(
        5, classifier=jax.tree_util.Partial(linear, jnp.asarray(weights))
    )
    result = run(tmp_path, defense, attack, dataset)
    assert not result.robust.any() and not result.clean.any()
    assert result.nonfinite.tolist() == dataset.indices.tolist()
    assert np.isfinite(result.images).all()


def thresholded(x):
    """A classifier that makes logits of anything, of NaN too."""
    return jnp.where(x.reshape(-1)[:5] > 0.5, 1.0, 0.0)


def broken_above(limit, key, x):
    del key
    return jnp.where(jnp.mean(x) > limit, jnp.nan, x)


def test_a_purifier_that_returns_nan_is_never_robust(tmp_path):
    """Though the classifier makes something of it, and what it makes would be right."""
    _, attack, dataset = experiment(6)
    labels = np.asarray(jax.vmap(thresholded)(dataset.images)).argmax(1)
    # All labels 0 are what the classifier makes of NaN.
    zeros = data.Dataset("toy", dataset.images, 0 * labels, dataset.indices, 5)
    limit = float(np.median(dataset.images.mean((1, 2, 3))))
    purifier = jax.tree_util.Partial(broken_above, limit)
    defense = PurifiedClassifier(purifier, jax.tree_util.Partial(thresholded))
    seen = dataclasses.replace(attack.objective, defense=defense)
    attack = dataclasses.replace(attack, objective=seen, eps=1e-4, step_size=1e-5)
    result = run(tmp_path, defense, attack, zeros)
    bad = np.isin(result.indices, result.nonfinite)
    assert 0 < bad.sum() < 6
    assert not result.clean[bad].any() and not result.robust[bad].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": 7}, "label 7 of example 102 of toy is outside"),
        ({"images": 255.0}, "image 102 of toy has values outside"),
        ({"images": np.nan}, "image 102 of toy has values outside .* or not finite"),
    ],
)
def test_examples_out_of_range_are_named_before_any_work(tmp_path, change, message):
    defense, attack, dataset = experiment(4)
    ((name, value),) = change.items()
    changed = getattr(dataset, name).copy()
    changed[2] = value
    with pytest.raises(data.DataError, match=message):
        run(tmp_path, defense, attack, dataclasses.replace(dataset, **{name: changed}))
    assert not list(tmp_path.iterdir())


def test_an_attack_that_leaves_its_ball_is_an_error(tmp_path):
    defense, attack, dataset = experiment(4, "fresh")

    fields = {f.name: getattr(attack, f.name) for f in dataclasses.fields(attack)}
    with pytest.raises(ValueError, match="example 10[0-3] .*eps 0.08"):
        run(tmp_path, defense, Outside(**fields), dataset)


def test_an_unfinished_run_says_so(tmp_path):
    with pytest.raises(ValueError, match="example 100 has no clean record"):
        load(epath.Path(tmp_path), examples(2)[0])


def test_chunks_do_not_compile_again(tmp_path):
    traces = []

    def counting(key, x):
        traces.append(1)
        return noisy(0.2, key, x)

    _, attack, dataset = experiment(30)
    classifier = attack.objective.defense.classifier
    defense = PurifiedClassifier(jax.tree_util.Partial(counting), classifier)
    run(tmp_path / "a", defense, attack, subset(dataset, range(4)))
    before = len(traces)
    run(tmp_path / "b", defense, attack, dataset)
    assert len(traces) == before


def test_killed_at_every_write_and_resumed_is_the_same(tmp_path):
    """By Ctrl-C, just before or just after each file of records is written."""
    defense, attack, dataset = experiment(7, "fresh")
    whole = run(tmp_path / "whole", defense, attack, dataset)
    folder, append, kills = tmp_path / "killed", records.append, []

    def interrupted(folder, rows):
        if not rows:
            return
        kills.append(folder.name)
        if len(kills) % 2:  # every second time the file is there already
            raise KeyboardInterrupt
        append(folder, rows)
        raise KeyboardInterrupt

    with mock.patch.object(records, "append", interrupted):
        for _ in range(100):
            try:
                resumed = run(folder, defense, attack, dataset)
                break
            except KeyboardInterrupt:
                continue
    assert_same(whole, resumed)
    assert len(kills) > 10 and set(kills) == {"clean", "attacked", "judged"}


def test_files_cut_short_cost_only_time(tmp_path):
    """The snapshot and the last file of every folder, all of them at once."""
    defense, attack, dataset = experiment(13, "fresh", num_steps=8)
    whole = run(tmp_path / "whole", defense, attack, dataset)
    calls = [0]

    def kill(stage, done, *_):
        calls[0] += stage == "attack"
        if calls[0] == 14:  # some judged, some attacked, some under way
            raise Killed

    for share in (0.1, 0.5, 0.99):
        calls[0] = 0
        folder = tmp_path / str(share)
        with (
            mock.patch.object(engine, "SNAPSHOT_SECONDS", 0),
            mock.patch.object(engine, "CALL_SECONDS", 1e-9),  # one step a call
            pytest.raises(Killed),
        ):
            run(folder, defense, attack, dataset, progress=kill)
        stages = [folder / stage for stage in ("clean", "attacked", "judged")]
        lasts = [max(stage.glob("part-*.jsonl")) for stage in stages]
        for path in (*lasts, folder / "under_way-000.safetensors"):
            content = path.read_bytes()
            path.write_bytes(content[: int(share * len(content))])
        assert_same(whole, run(folder, defense, attack, dataset))


def with_noise(sigma, defense, attack):
    purifier = jax.tree_util.Partial(noisy, sigma)
    seen = PurifiedClassifier(gradients.bpda(purifier), defense.classifier)
    objective = dataclasses.replace(attack.objective, defense=seen)
    defense = dataclasses.replace(defense, purifier=purifier)
    return defense, dataclasses.replace(attack, objective=objective)


def test_under_fresh_noise_only_the_hopeless_are_left_alone(tmp_path):
    """Wrong under every judging key; under replay, wrong under the one that judges."""
    results = {}
    for policy in ("fresh", "replay"):
        defense, attack, dataset = experiment(40, policy)
        defense, attack = with_noise(1.0, defense, attack)  # so much that draws differ
        results[policy] = run(tmp_path / policy, defense, attack, dataset)
    alone = {policy: r.attack_calls == 0 for policy, r in results.items()}
    np.testing.assert_array_equal(alone["fresh"], ~results["fresh"].clean.any(1))
    np.testing.assert_array_equal(alone["replay"], ~results["replay"].clean[:, 0])
    assert 0 < alone["fresh"].sum() < alone["replay"].sum() < 40
    for policy, result in results.items():
        images = dataset.images[alone[policy]]
        np.testing.assert_array_equal(result.images[alone[policy]], images)
        for one, other in (
            (result.logits, result.clean_logits),  # the same image under the same keys
            (result.evaluations, np.zeros(40)),
            (result.linf, np.zeros(40)),
        ):
            np.testing.assert_array_equal(one[alone[policy]], other[alone[policy]])
    np.testing.assert_array_equal(*[r.clean_logits for r in results.values()])


def failing_above(weights, bright, x):
    return jnp.where(x[0, 0, 0] > bright, jnp.nan, linear(weights, x))


def test_where_a_defense_fails_the_others_do_not_notice(tmp_path):
    dataset, sound = examples(12)
    images = dataset.images.copy()
    images[:, 0, 0] = np.where(np.arange(12)[:, None] % 3 == 0, 1.0, 0.0)
    dataset = dataclasses.replace(dataset, images=images)
    results = []
    for bright in (2.0, 0.5):
        classifier = jax.tree_util.Partial(failing_above, *sound.args, bright)
        defense, attack, _ = experiment(12, "fresh", classifier=classifier)
        defense, attack = with_noise(0.02, defense, attack)
        results.append(run(tmp_path / str(bright), defense, attack, dataset))
    failed = np.arange(12) % 3 == 0
    assert results[0].nonfinite.tolist() == []
    assert results[1].nonfinite.tolist() == dataset.indices[failed].tolist()
    assert not results[1].robust[failed].any()
    np.testing.assert_array_equal(results[0].images[~failed], results[1].images[~failed])
    np.testing.assert_array_equal(results[0].robust[~failed], results[1].robust[~failed])


def test_leaving_the_range_of_images_is_an_error_too(tmp_path):
    """Within the ball, but below 0."""
    defense, attack, dataset = experiment(4, "fresh")
    weights, images = np.asarray(defense.classifier.args[0]), dataset.images * 0.01
    labels = np.argmax(np.tanh(3 * (images.reshape(4, -1) - 0.5)) @ weights, -1)
    dark = dataclasses.replace(dataset, images=images, labels=labels.astype(np.int32))

    fields = {f.name: getattr(attack, f.name) for f in dataclasses.fields(attack)}
    with pytest.raises(ValueError, match=r"example 10[0-3] .*outside \[0, 1\]"):
        run(tmp_path, defense, Below(**fields), dark)
