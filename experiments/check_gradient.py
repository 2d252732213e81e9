"""Checks a config's gradient: python -m experiments.check_gradient --config=NAME.

Compares the gradient that the attack follows (of a sequence, the first) with finite
differences of the defense, under one key, in float64, on one image; then each piece of the
reverse chain. It says which rule it is: BPDA and surrogates are not the derivative, and how
far they are from it is what the numbers tell.
"""

import sys
from functools import partial

from absl import flags
from ml_collections import config_flags

from experiments import config as configs
from experiments import program
from experiments.build import experiment
from jaxpure import randomness
from jaxpure.attacks import LOSSES, stages_of
from jaxpure.gradient_check import GradientCheck, check_gradient

_CONFIG = config_flags.DEFINE_config_dataclass(
    "config",
    configs.RunConfig(),
    "Name of a run config.",
    parse_fn=partial(configs.by_name, kind=configs.RunConfig),
)
_EXAMPLE = flags.DEFINE_integer("example", 0, "Which of the config's examples.")

# Central differences in float64 agree with a right derivative far better than this.
TOLERANCE = 1e-4


def check(config: configs.RunConfig, example: int) -> GradientCheck:
    """The check of a config's gradient rule on one of its examples."""
    built = experiment(config)
    objective = stages_of(built.attack)[0][1].objective
    if objective.targeted:
        raise configs.ConfigError(
            f"the loss of {config.attack.name} has a target, which a check has not; check "
            f"an attack on one of {', '.join(LOSSES)}"
        )
    if not 0 <= example < len(built.dataset):
        raise configs.ConfigError(
            f"example={example}, expected 0 to {len(built.dataset) - 1}"
        )
    key = randomness.example_key(built.root, built.dataset.indices[example])
    (judging,) = randomness.judging_keys(randomness.PRESETS["replay"], key, 1)
    return check_gradient(
        built.seen,
        built.defense,
        judging,
        built.dataset.floats()[example],
        int(built.dataset.labels[example]),
        loss=objective.loss,
        addend=objective.addend,
    )


def report(config: configs.RunConfig, found: GradientCheck) -> str:
    """The findings in words and a table."""
    rule, _ = configs.parse_spec(config.gradient)
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
    right = found.relative_error < TOLERANCE
    if not found.finite:
        verdict = "the gradient is not finite: an attack cannot follow it (masking)"
    elif found.gradient_norm == 0:
        verdict = "the gradient is identically zero: an attack cannot follow it (masking)"
    elif rule == "exact":
        verdict = (
            "the gradient is the derivative of the defense"
            if right
            else "WRONG: the rule says exact, and this is not the derivative"
        )
    else:
        verdict = f"{rule} is an approximation by design; the error says how far it is"
    return "\n".join([*lines, verdict])


def main(argv: list[str]) -> None:
    program.no_positional(argv)
    config = program.with_data_dir(_CONFIG.value)
    print(report(config, check(config, _EXAMPLE.value)))


if __name__ == "__main__":
    program.launch(main, configs.RunConfig, sys.argv)
