"""What is measured on each data set, and how much of it."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from jaxpure.errors import UserError, check_range, unknown


@dataclass(frozen=True)
class Plan:
    """All that the numbers of a page depend on, besides the code.

    Attributes:
      data: a spec, as `data.load` takes.
      denoiser: name or path of its weights.
      classifier: likewise.
      purifier: the spec that all sections but the sweeps are about.
      sweep: specs of the sweep over t_star and samplers.
      checkpoints: weights of the same denoiser, from worse to better or in any order.
      ball: what the attack may do.
      num_examples: images, the first of the set.
      batch_size: images in a unit of work.
      num_steps: updates of PGD.
      eot_samples: draws of the EOT attacks, at least 2.
      judging_keys: draws that judge an image, at least twice `matrix_keys`.
      matrix_keys: attack keys of the key matrix, at least 2.
      cloud_images: images whose purifications are correlated; at most `num_examples`.
      cloud: keys, and starts, of each of them; at least 4.
      directions: of the compression rate.
      path_steps: steps along which gradients are compared.
      seed: of the root key.
    """

    data: str
    denoiser: str
    classifier: str
    purifier: str
    sweep: tuple[str, ...]
    ball: str
    checkpoints: tuple[str, ...] = ()
    num_examples: int = 100
    batch_size: int = 25
    num_steps: int = 20
    eot_samples: int = 15
    judging_keys: int = 16
    matrix_keys: int = 6
    cloud_images: int = 20
    cloud: int = 100
    directions: int = 8
    path_steps: int = 8
    seed: int = 0

    @property
    def eps(self) -> float:
        """The ball's radius."""
        from jaxpure.attacks import BALLS
        from jaxpure.specs import build

        return build(BALLS, self.ball).eps

    @property
    def step_size(self) -> float:
        """Of PGD: two and a half radii over all steps."""
        return 2.5 * self.eps / self.num_steps


def _sweep(t_stars: tuple[int, ...], *rules: str) -> tuple[str, ...]:
    """DiffPure and RevPure at each t_star, under each step rule."""
    return tuple(
        f"{kind}(t_star={t}{rule and f',step_rule={rule}'})"
        for rule in rules
        for kind in ("diffpure", "revpure")
        for t in t_stars
    )


# Ten steps of DDIM with the posterior's variance: DDPM in ten steps.
TEN = "ddim(eta=1.0,num_steps=10)"
FEW_STEPS = tuple(
    f"diffpure(t_star=50,step_rule=ddim(eta={eta},num_steps={n}))"
    for eta, n in ((0.0, 10), (0.5, 10), (1.0, 10), (1.0, 5), (1.0, 25))
)

PLANS = {
    "digits": Plan(
        data="digits",
        denoiser="digits_denoiser",
        classifier="digits_classifier",
        purifier="diffpure(t_star=50)",
        sweep=(*_sweep((10, 25, 50, 75, 100, 150), ""), *FEW_STEPS),
        ball="linf(51/255)",
    ),
    "mnist": Plan(
        data="mnist",
        denoiser="mnist_denoiser",
        classifier="mnist_classifier",
        purifier="diffpure(t_star=100)",
        sweep=(*_sweep((25, 50, 100, 150, 200), ""), *FEW_STEPS),
        ball="linf(51/255)",
        batch_size=10,
    ),
    "cifar10": Plan(
        data="cifar10",
        denoiser="cifar10_denoiser",
        classifier="cifar10_classifier",
        purifier="diffpure(t_star=50)",
        sweep=(*_sweep((10, 25, 50, 75, 100), ""), *FEW_STEPS),
        ball="linf(8/255)",
        batch_size=5,
    ),
}


def quick(plan: Plan) -> Plan:
    """The same on fewer images and keys, with chains of ten steps."""
    name = plan.purifier.partition(",")[0].rstrip(")")
    return dataclasses.replace(
        plan,
        purifier=f"{name},step_rule={TEN})",
        sweep=_sweep((20, 50, 100, 150), TEN),
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


NEEDED = ("denoiser", "classifier", "purifier", "ball")


def _of_any(data: str, options: dict[str, Any]) -> Plan:
    """The plan of a set that has none of its own."""
    missing = [name for name in NEEDED if options.get(name) is None]
    if missing:
        flags = " and ".join(f"--{name}" for name in missing)
        raise UserError(
            f"{unknown('--data', data, PLANS)} Of a set without a plan give {flags} too"
        )
    given = {name: options[name] for name in NEEDED}
    return Plan(data=data, sweep=(), batch_size=5, **given)


def plan(data: str, is_quick: bool, num_examples: int | None = None, **options) -> Plan:
    """The plan of a data set.

    Args:
      data: a name of `PLANS`, or the spec of another set. Of that `options` must have
        denoiser, classifier, purifier and ball.
      is_quick: whether it is to end in minutes.
      num_examples: images; by default as many as the plan has.
      **options: other fields, where they are not None.

    Raises:
      UserError: there is no such plan, or a number is out of range.
    """
    found = PLANS[data] if data in PLANS else _of_any(data, options)
    found = quick(found) if is_quick else found
    if num_examples is not None:
        check_range(2, num_examples=num_examples)
        options = {
            "num_examples": num_examples,
            "batch_size": min(found.batch_size, num_examples),
            "cloud_images": min(found.cloud_images, num_examples),
        } | options
    given = {name: value for name, value in options.items() if value is not None}
    found = dataclasses.replace(found, **given)
    if found.judging_keys < 2 * found.matrix_keys:
        raise UserError(
            f"judging_keys={found.judging_keys}, expected at least twice "
            f"matrix_keys={found.matrix_keys}"
        )
    return found
