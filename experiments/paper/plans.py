"""Which config a page is of, and how that is made smaller."""

import dataclasses
import math

from experiments import config as configs
from experiments.arguments import SEED_LIMIT, ArgumentError, Arguments
from experiments.config import PaperConfig
from jaxpure.attacks import BALLS
from jaxpure.errors import UserError, check_range, unknown
from jaxpure.specs import build

SUFFIX = "_paper"  # of the configs' names, after that of the data set
RANGES = {
    (0, SEED_LIMIT - 1): ("seed",),
    (1, math.inf): ("batch_size", "num_steps", "cloud_images", "directions", "path_steps"),
    (2, math.inf): ("num_examples", "eot_samples", "matrix_keys"),
    (4, math.inf): ("cloud",),
}
"""What the numbers of a config may be: the least, the most."""

NEEDED = ("denoiser", "classifier", "purifier", "ball")

# Ten steps of DDIM with the posterior's variance: DDPM in ten steps.
TEN = "ddim(eta=1.0,num_steps=10)"
FEW_STEPS = tuple(
    f"diffpure(t_star=50,step_rule=ddim(eta={eta},num_steps={n}))"
    for eta, n in ((0.0, 10), (0.5, 10), (1.0, 10), (1.0, 5), (1.0, 25))
)


def pairs(t_stars: tuple[int, ...], rule: str = "") -> tuple[str, ...]:
    """Specs of DiffPure and RevPure at each t_star, under a step rule."""
    return tuple(
        f"{kind}(t_star={t}{rule and f',step_rule={rule}'})"
        for kind in ("diffpure", "revpure")
        for t in t_stars
    )


def sets() -> list[str]:
    """The data sets that have a config of their own."""
    return [name.removesuffix(SUFFIX) for name in configs.names(PaperConfig)]


def chosen(arguments: Arguments) -> PaperConfig:
    """The config that a command line means, before its overrides.

    Raises:
      ArgumentError: it names neither a config nor a data set, or both.
      ConfigError: there is no such config.
    """
    data, name = arguments.data, arguments.config
    if (data is None) == (name is None):
        raise ArgumentError(
            f"--data=NAME or --config=NAME is needed, one of them; NAME of data: "
            f"{', '.join(sets())}; of configs: {', '.join(configs.names(PaperConfig))}"
        )
    if name is not None or data in sets():
        found = configs.by_name(name or f"{data}{SUFFIX}", PaperConfig)
    else:
        nothing = dict.fromkeys(NEEDED, "")
        found = PaperConfig(data=data, batch_size=5, **nothing)
    return quick(found) if arguments.quick else found


def quick(config: PaperConfig) -> PaperConfig:
    """The same on fewer images and keys, with chains of ten steps."""
    purifier = config.purifier
    if purifier:
        name = purifier.partition(",")[0].rstrip(")")
        purifier = f"{name},step_rule={TEN})"
    return dataclasses.replace(
        config,
        purifier=purifier,
        sweep=pairs((20, 50, 100, 150), TEN) if config.sweep else (),
        num_examples=32,
        batch_size=16,
        num_steps=10,
        eot_samples=4,
        judging_keys=8,
        matrix_keys=3,
        cloud_images=8,
        cloud=24,
        directions=4,
        path_steps=4,
    )


def settled(config: PaperConfig) -> PaperConfig:
    """The config, checked, with no more images at once than there are.

    Raises:
      UserError: a field is missing, or a number is out of range.
    """
    missing = [name for name in NEEDED if not getattr(config, name)]
    if missing:
        fields = " and ".join(f"--config.{name}" for name in missing)
        raise UserError(
            f"{unknown('--data', config.data, sets())} Of another set give {fields} too"
        )
    for (least, most), names in RANGES.items():
        numbers = {f"config.{name}": getattr(config, name) for name in names}
        check_range(least, most, **numbers)
    if config.judging_keys < 2 * config.matrix_keys:
        raise UserError(
            f"config.judging_keys={config.judging_keys}, expected at least twice "
            f"config.matrix_keys={config.matrix_keys}"
        )
    n = config.num_examples
    return dataclasses.replace(
        config,
        batch_size=min(config.batch_size, n),
        cloud_images=min(config.cloud_images, n),
    )


def eps(config: PaperConfig) -> float:
    """The ball's radius."""
    return build(BALLS, config.ball).eps


def step_size(config: PaperConfig) -> float:
    """Of PGD: two and a half radii over all steps."""
    return 2.5 * eps(config) / config.num_steps
