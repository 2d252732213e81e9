"""The lanes: the same records whatever the devices, the neighbours and the kills."""

import dataclasses
import os
import subprocess
import sys
from collections import deque
from unittest import mock

import jax
import numpy as np
import pytest
from etils import epath
from evaluation import toys
from evaluation.toys import assert_same, problem, run

from jaxpure import attacks, data, evaluation, keys
from jaxpure.evaluation import lanes, result
from jaxpure.evaluation.setup import set_up
from jaxpure.policy import PRESETS
from jaxpure.pytrees import choose


@pytest.mark.parametrize("policy", ["replay", "fresh"])
def test_an_example_alone_is_the_same_to_the_bit(policy):
    defense, attack, dataset = problem(6)
    together = run(None, defense, attack, dataset, policy=policy)
    for i in (0, 3, 5):
        alone = run(None, defense, attack, data.take(dataset, [i]), policy=policy)
        assert_same(alone, together, [i])


@pytest.mark.parametrize("policy", ["replay", "fresh"])
def test_records_are_those_of_a_plain_loop_over_steps(policy):
    defense, attack, dataset = problem(6)
    found = run(None, defense, attack, dataset, policy=policy)
    setup = set_up(defense, attack, ball=toys.BALL, policy=policy, gradient="bpda")
    ((_, _, objective),) = setup.stages

    @jax.jit
    def step(states):
        moved = jax.vmap(lambda s: attack.step(objective, toys.BALL, s))(states)
        return jax.vmap(choose)(states.progress.done, states, moved)

    example_keys = jax.vmap(keys.example_key, (None, 0))(toys.ROOT, dataset.indices)
    start = jax.vmap(lambda *each: attack.init(objective, toys.BALL, *each))
    states = start(example_keys, dataset.floats(), dataset.labels)
    while not states.progress.done.all():
        states = step(states)
    progress = states.progress
    for i in range(len(dataset)):
        left_alone = policy == "replay" and not found.clean[i, 0]
        expected = dataset.floats()[i] if left_alone else progress.adversarial[i]
        np.testing.assert_allclose(found.images[i], expected, atol=1e-6)
        if not left_alone:
            assert found.evaluations[i] == progress.evaluations[i]
            assert found.broken_at[i] == progress.broken_at[i]


@pytest.mark.parametrize("n", [7, 8, 9, 41])  # slots - 1, slots, slots + 1, 5 slots + 1
def test_the_number_of_devices_does_not_matter(n):
    defense, attack, dataset = problem(n)
    one, two, eight = (
        run(None, defense, attack, dataset, devices=devices) for devices in (1, 2, 8)
    )
    assert_same(one, two)
    assert_same(one, eight)
    assert one.about["hash"] == two.about["hash"]
    assert 0 < one.robust[:, 0].mean() < 1  # something fell and something stood


IN_A_PROCESS = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
from evaluation.toys import problem, run
run(None, *problem(9), devices=int(sys.argv[1])).save(sys.argv[2])
"""


def in_a_process(devices, path):
    """The toy's result, saved by a process that has so many devices."""
    program = [sys.executable, "-c", IN_A_PROCESS, str(devices), str(path)]
    tests = str(toys.__file__).rsplit("/", 2)[0]
    subprocess.run(program, cwd=tests, check=True, env=with_path(tests), timeout=300)
    return result.load(path)


def with_path(*folders):
    path = os.pathsep.join([*folders, *sys.path])
    return {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}


@pytest.mark.long
def test_processes_of_one_two_and_eight_devices_agree_to_the_bit(tmp_path):
    one, *others = (in_a_process(n, tmp_path / f"{n}.npz") for n in (1, 2, 8))
    for other in others:
        assert_same(one, other)
        assert one.about == other.about


@pytest.mark.long
@pytest.mark.parametrize("devices", [4, 5])
def test_processes_of_four_and_five_devices_agree_but_for_rounding(devices, tmp_path):
    """The last bits of logits differ there (docs/running.md)."""
    one, other = (in_a_process(n, tmp_path / f"{n}.npz") for n in (1, devices))
    np.testing.assert_allclose(other.clean_logits, one.clean_logits, atol=1e-5)
    np.testing.assert_array_equal(other.indices, one.indices)


def test_order_and_neighbours_do_not_matter():
    defense, attack, dataset = problem(13)
    order = np.random.default_rng(1).permutation(13)[:9]
    whole = run(None, defense, attack, dataset)
    some = run(None, defense, attack, data.take(dataset, order))
    assert_same(some, whole, order)


def reveal(key, x):
    return keys.noise_at(key, 0, x).reshape(-1)[:5]


def test_batch_sizes_meet_the_same_noise():
    defense, attack, dataset = problem(13)
    few, many = (run(None, defense, attack, dataset, batch_size=n) for n in (4, 7))
    np.testing.assert_allclose(few.clean_logits, many.clean_logits, rtol=1e-5, atol=1e-5)
    noise = [
        lanes.judge(
            lanes.Lanes(lanes.local_mesh(jax.devices()[:1]), size),
            jax.tree_util.Partial(reveal),
            PRESETS["replay"],
            toys.ROOT,
            list(dataset.indices),
            dataset.images,
            keys=toys.KEYS,
        )
        for size in (1, 7, 64)
    ]
    np.testing.assert_array_equal(noise[0], noise[1])
    np.testing.assert_array_equal(noise[0], noise[2])


def test_more_examples_compile_nothing_anew():
    """One program a shape, however many examples there are."""
    defense, attack, dataset = problem(14)
    mesh = lanes.local_mesh(jax.devices()[:1])

    def compiled(examples):
        run(None, defense, attack, examples, batch_size=3)
        return lanes.advance_on(mesh)._cache_size(), lanes._enter(mesh)._cache_size()

    for programs in (lanes.advance_on, lanes._enter):
        programs.cache_clear()  # what other tests compiled
    first = compiled(data.take(dataset, range(9)))
    assert min(first) > 0  # else nothing is seen here
    assert compiled(dataset) == first


def test_an_attack_that_is_never_done_ends_with_its_budget():
    defense, _, dataset = problem(5)
    grey = dataclasses.replace(dataset, images=0.4 + 0.2 * dataset.images)
    found = run(None, defense, toys.Nudge(0.01, calls=4), grey, policy="fresh")
    tried = found.clean.any(1)  # the others are left alone
    np.testing.assert_array_equal(found.attack_calls, 4 * tried)
    np.testing.assert_array_equal(found.evaluations, 4 * tried)
    np.testing.assert_array_equal(found.gradient_evaluations, 4 * tried)
    # It kept what it had when it was stopped: four nudges.
    np.testing.assert_allclose(found.linf, 0.04 * tried, atol=1e-6)
    assert tried.any()


def crew(attack, dataset, defense):
    setup = set_up(defense, attack, ball=toys.BALL, policy="fresh", gradient="bpda")
    where = lanes.Lanes(lanes.local_mesh(jax.devices()[:2]), 2)
    all_of_them = lanes.Examples(
        toys.ROOT, dataset.indices, dataset.floats(), dataset.labels
    )
    return where, setup, all_of_them


def test_attacks_under_way_go_on_from_their_snapshot(tmp_path):
    """Nothing that was computed before the kill is computed again."""
    defense, attack, dataset = problem(3, num_steps=12)
    where, setup, all_of_them = crew(attack, dataset, defense)
    snapshot = epath.Path(tmp_path) / "under_way.safetensors"
    todo = [int(i) for i in dataset.indices]

    def attacked(snapshot, calls=None):
        taken, rows = [], []
        real = lanes._Crew.advance

        def advance(self, slots, steps):
            taken.append(int(steps))
            return real(self, slots, steps)

        patches = {"SNAPSHOT_SECONDS": 0, "MOST_STEPS": 1, "CALL_SECONDS": 1e9}
        with (
            mock.patch.multiple(lanes, **patches),
            mock.patch.object(lanes._Crew, "advance", advance),
        ):
            going = lanes.attack(
                where, setup.stages[0], setup.ball, all_of_them, todo, snapshot
            )
            for found in going:
                rows += found
                if calls is not None and len(taken) > calls:
                    break
        return rows, len(taken)

    whole, all_steps = attacked(None)
    nothing, before = attacked(snapshot, calls=6)
    assert nothing == [] and snapshot.exists() and before == 7 < all_steps == 13
    resumed, after = attacked(snapshot)
    assert not snapshot.exists()
    # The last snapshot is of the step before the kill.
    assert after == all_steps - before + 1
    for one, other in zip(whole, resumed, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_a_snapshot_of_more_devices_or_cut_short_costs_only_time(tmp_path):
    defense, attack, dataset = problem(6)
    where, setup, all_of_them = crew(attack, dataset, defense)
    team = lanes._Crew(where, setup.stages[0], setup.ball, all_of_them)
    path = epath.Path(tmp_path) / "under_way.safetensors"
    path.write_bytes(b"cut short")
    slots, occupied = team.begin(path, deque([100, 101]))
    assert not np.asarray(slots.active).any() and not occupied.any()
    whole = run(tmp_path / "a", defense, attack, dataset)
    folder = tmp_path / "b" / "stages" / "0-pgd"
    folder.mkdir(parents=True)
    (folder / "under_way-000.safetensors").write_bytes(b"cut short")
    assert_same(whole, run(tmp_path / "b", defense, attack, dataset))


def test_chunks_do_not_compile_again():
    traces = []

    def counting(key, x):
        traces.append(1)
        return toys.noisy(0.2, key, x)

    defense, attack, dataset = problem(30)
    defense = type(defense)(jax.tree_util.Partial(counting), defense.classifier)
    run(None, defense, attack, data.take(dataset, slice(4)))
    before = len(traces)
    run(None, defense, attack, dataset)
    fit = 2  # of a new data set the protocol is traced once: the judge and one step
    assert len(traces) - before <= 2 * fit


def test_processes_take_every_other_example_and_write_side_by_side(tmp_path):
    defense, attack, dataset = problem(9)
    alone = run(None, defense, attack, dataset)
    shares = []
    for process in (0, 1):
        with (
            mock.patch.object(jax, "process_index", lambda process=process: process),
            mock.patch.object(jax, "process_count", lambda: 2),
        ):
            share = evaluation.share_of_process(dataset)
            assert_same(run(tmp_path, defense, attack, share), alone, slice(process, 9, 2))
            shares += share.indices.tolist()
    assert sorted(shares) == dataset.indices.tolist()
    # The whole folder is the evaluation of one process: nothing is left to do.
    with mock.patch.object(lanes, "attack", side_effect=AssertionError("worked again")):
        assert_same(run(tmp_path, defense, attack, dataset), alone)


def test_seconds_per_step_are_measured():
    defense, attack, dataset = problem(6)
    where, setup, all_of_them = crew(attack, dataset, defense)
    compiling, step = lanes.seconds_per_step(
        where, setup.stages[0], setup.ball, all_of_them
    )
    assert compiling >= 0 and 0 < step < 60


def test_composites_take_the_lanes_in_turn():
    defense, attack, dataset = problem(9)
    gentle = attacks.Pgd(step_size=0.001, num_steps=1, random_start=False)
    both = run(None, defense, toys.InTurn(gentle, attack), dataset)
    alone = run(None, defense, attack, dataset)
    assert both.about["stages"] == ["first", "second"]
    np.testing.assert_array_equal(both.robust[:, 0], alone.robust[:, 0])
