"""Checks a config's gradient: python -m experiments.check_gradient --config=NAME.

Compares the gradient that the attack follows (of attacks in turn, the first) with finite
differences of the defense, under one key, in float64, on one image; then each piece of the
reverse chain. It says which rule it is: BPDA and surrogates are not the derivative, and how
far they are from it is what the numbers tell.
"""

import sys

from experiments import config as configs
from experiments import program
from experiments.arguments import Arguments, Flag
from experiments.build import experiment
from jaxpure import keys, specs
from jaxpure.checks import GradientCheck, check_gradient
from jaxpure.policy import PRESETS, judging_keys

FLAGS = (Flag("example", "which of the config's examples", int, 0, least=0),)

# Central differences in float64 agree with a right derivative far better than this.
TOLERANCE = 1e-4


def check(
    config: configs.RunConfig, example: int, data_dir: str | None = None
) -> GradientCheck:
    """The check of a config's gradient rule on one of its examples."""
    built = experiment(config, data_dir)
    objective = built.setup.stages[0].objective
    if objective.targeted:
        raise configs.ConfigError(
            f"config.attack={config.attack}: its loss has a target, which a check has not; "
            "check an attack on a loss without one, such as pgd"
        )
    if example >= len(built.dataset):
        raise configs.ConfigError(
            f"--example={example}, expected 0 to {len(built.dataset) - 1}"
        )
    key = keys.example_key(built.root, built.dataset.indices[example])
    (judging,) = judging_keys(PRESETS["replay"], key, 1)
    return check_gradient(
        built.setup.seen,
        built.defense,
        judging,
        built.dataset.floats()[example],
        int(built.dataset.labels[example]),
        loss=objective.loss,
        auxiliary_loss=objective.auxiliary_loss,
    )


def report(config: configs.RunConfig, found: GradientCheck) -> str:
    """The findings in words and a table."""
    rule = specs.parse(config.gradient).name
    lines = [
        f"rule: {config.gradient}",
        f"gradient against finite differences: relative error {found.relative_error:.2e}, "
        f"cosine {found.cosine:.4f}, L2 norm {found.gradient_norm:.3e}",
    ]
    if found.segments:
        lines.append("reverse chain, timesteps    relative error")
        lines += [
            f"  {s.first:5} to {s.last:5}          {s.relative_error:.2e}"
            for s in found.segments
        ]
    return "\n".join([*lines, _verdict(rule, found)])


def _verdict(rule: str, found: GradientCheck) -> str:
    if not found.finite:
        return "the gradient is not finite: an attack cannot follow it (masking)"
    if found.gradient_norm == 0:
        return "the gradient is identically zero: an attack cannot follow it (masking)"
    if rule != "exact":
        return f"{rule} is an approximation by design; the error says how far it is"
    if found.relative_error < TOLERANCE:
        return "the gradient is the derivative of the defense"
    return "WRONG: the rule says exact, and this is not the derivative"


def main(arguments: Arguments, config: configs.RunConfig) -> None:
    """The check of the config that the command line names."""
    print(report(config, check(config, arguments.example, arguments.data_dir)))


def command(argv: list[str]) -> int:
    """The program; returns its exit code."""
    return program.launch(
        main,
        argv,
        name="check_gradient",
        doc=__doc__,
        flags=FLAGS,
        kind=configs.RunConfig,
    )


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
