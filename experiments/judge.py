"""Judges a finished run again: python -m experiments.judge DIR [--seed=N] [--keys=N].

Without attacking, under the keys of another seed, or under more of them; the readings are
kept in the run's folder, beside its first ones.
"""

import sys
from typing import Any

from etils import epath

from experiments import config as configs
from experiments import devices, program, runs
from experiments.arguments import ArgumentError, Arguments, Flag
from experiments.build import SEED_LIMIT, Experiment, experiment
from jaxpure.errors import UserError
from jaxpure.evaluation import lock
from jaxpure.evaluation.judging import judge_more
from jaxpure.evaluation.readings import READINGS, reduce

FLAGS = (
    Flag(
        "seed",
        "of the judging keys; the run's own by default",
        int,
        None,
        0,
        SEED_LIMIT - 1,
    ),
    Flag("keys", "so many judging keys; as many as the run's by default", int, least=1),
    Flag("reduce", "what else to read of the draws, as in vote,worst,at_least_3"),
    program.DATA_DIR,
    program.CPU_DEVICES,
)


def again(
    built: Experiment,
    workdir: epath.Path,
    seed: int,
    keys: int | None = None,
    reducers: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Judges a finished run's adversarial images under more keys, or those of another seed.

    Args:
      built: the run's experiment.
      workdir: of the run.
      seed: of the root of the keys.
      keys: how many; as many as the run's by default.
      reducers: what else to read of the draws; see `readings.reduce`.

    Returns:
      The readings of its adversarial images, which are also written.
    """
    config = built.config
    keys = config.judging_keys if keys is None else keys
    with lock.held(workdir):
        result = judge_more(
            workdir / "records" / "defended",
            built.defense,
            keys,
            seed=None if seed == config.seed else seed,
        )
    found = dict(result.robust_readings)
    titles = {name: READINGS[name].title for name in found}
    for name in reducers:
        found[name] = reduce(result.logits, result.labels, name)
    readings = {name: estimate._asdict() for name, estimate in found.items()}
    summary = {"version": runs.VERSION, "seed": seed, "judging_keys": keys, **readings}
    path = workdir / f"judged-seed{seed}-keys{keys}.json"
    program.write_json(path, summary)
    for name, estimate in found.items():
        print(f"{titles.get(name, name):14} {estimate}", flush=True)
    print(path, flush=True)
    return summary


def config_of(workdir: epath.Path) -> tuple[configs.RunConfig, str | None]:
    """The config of a run, and where its data was.

    Raises:
      RunError: the folder holds no run that this version can go on with.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise runs.RunError(f"{workdir} holds no run (no config.json)")
    details = runs.read_config(workdir)
    try:
        config = configs.run_config(details["config"])
        runs.canonical(details["config"], configs.RunConfig)
    except UserError as error:
        raise runs.RunError(f"{path} is not of a run ({error})") from error
    written = details["weights"]
    for name, digest in program.weights_digests(config).items():
        if written.get(name) != digest:
            raise runs.RunError(
                f"{workdir} was made with other weights than config.{name}="
                f"{getattr(config, name)} holds now; restore the file"
            )
    return config, details.get("data_dir")


def main(arguments: Arguments, nothing: None) -> None:
    """Judges the run that the command line names."""
    del nothing
    if len(arguments.rest) != 1:
        raise ArgumentError("usage: python -m experiments.judge DIR [--seed=N] [--keys=N]")
    workdir = program.folder(arguments.rest[0])
    config, data_dir = config_of(workdir)
    devices.use(arguments.cpu_devices)
    program.prepare_jax(config.compute_dtype)
    built = experiment(config, arguments.data_dir or data_dir)
    seed = config.seed if arguments.seed is None else arguments.seed
    reducers = tuple(filter(None, (arguments.reduce or "").split(",")))
    again(built, workdir, seed, arguments.keys, reducers)


def command(argv: list[str]) -> int:
    """The program; returns its exit code."""
    return program.launch(
        main, argv, name="judge", doc=__doc__, flags=FLAGS, takes_rest=True
    )


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
