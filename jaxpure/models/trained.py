"""What a denoiser was trained on: part of the network, and of the file that holds it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from jaxpure import specs
from jaxpure.diffusion.schedules import SCHEDULES, Schedule
from jaxpure.diffusion.steps import Variance
from jaxpure.errors import UserError, check_in, check_range, unknown

CONTINUOUS = "continuous_vp"


@dataclass(frozen=True)
class Trained:
    """The facts of a denoiser's training that its user must respect; None: not known.

    Attributes:
      schedule: of `SCHEDULES`, as a spec or as an object; or "continuous_vp" for a network
        of continuous time, which is told 999 times the time.
      timesteps: it knows those below this number.
      label_scale: the network was told this times the timestep; `Network` scales by itself.
      variance: of the steps that it was published with: "fixed_large", "fixed_small" or
        "learned_range".
      clip: whether these clip the predicted clean image.
    """

    schedule: Schedule | str | None = None
    timesteps: int | None = None
    label_scale: float = 1.0
    variance: Variance | None = None
    clip: bool | None = None

    def __post_init__(self):
        if isinstance(self.schedule, str) and self.schedule != CONTINUOUS:
            schedule = specs.build(SCHEDULES, self.schedule)
            object.__setattr__(self, "schedule", schedule)
        if self.timesteps is not None:
            check_range(1, timesteps=self.timesteps)
        if isinstance(self.schedule, Schedule):
            most = self.schedule.num_timesteps
            if self.timesteps is not None and self.timesteps > most:
                raise UserError(f"timesteps={self.timesteps}, but the schedule has {most}")
        check_range(0, above=True, label_scale=self.label_scale)
        if self.variance is not None:
            check_in("variance", self.variance, get_args(Variance))

    @property
    def is_continuous(self) -> bool:
        """Whether the network was trained in continuous time."""
        return self.schedule == CONTINUOUS

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Trained":
        """What `to_json` made, or a version-1 card's "diffusion".

        Raises:
          UserError: a fact that this version does not know, or one that cannot be.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise UserError(unknown("fact of training", name, known))
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """The facts that are known, as JSON has them."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if isinstance(self.schedule, Schedule):
            values["schedule"] = specs.spec_of(self.schedule, SCHEDULES)
        if self.label_scale == 1:
            del values["label_scale"]
        return {name: value for name, value in values.items() if value is not None}
