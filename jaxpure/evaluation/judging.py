"""Judging what an evaluation found once more: under more keys, or to check what it says.

Nothing is attacked. The first readings stay as they are; those under more keys are records
of their own in the evaluation's folder, which a later call goes on with.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from jaxpure.defenses import noise_parts
from jaxpure.errors import UserError, check_range
from jaxpure.evaluation import lanes, records
from jaxpure.evaluation.folder import open_folder
from jaxpure.evaluation.identity import Identity, fingerprint, root_key
from jaxpure.evaluation.result import Result
from jaxpure.policy import parse_policy

ROUNDING = 1e-4  # relative to the largest logit: what another device may differ by


def judge_more(
    folder: epath.PathLike,
    defense: Any,
    keys: int,
    *,
    seed: int | None = None,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> Result:
    """A finished evaluation's images under more judging keys.

    Clean and adversarial images are judged under keys 0 to `keys - 1`: of the same root the
    first are those of the evaluation, and the others extend them; with another seed all are
    new, and none of them was replayed to an attack.

    Args:
      folder: of the evaluation's records.
      defense: the very defense that was evaluated.
      keys: how many.
      seed: of another root key.
      batch_size: images side by side on each device; the evaluation's own by default.
      mesh: the devices; by default all of this host's.

    Returns:
      The evaluation's result with these logits in place of its first ones.

    Raises:
      UserError: the evaluation is not finished, or is of another defense.
    """
    check_range(1, keys=keys)
    stored = open_folder(folder)
    result, about = stored.result, stored.about
    _check_defense(defense, stored.identity.parts)
    root = root_key(about) if seed is None else jax.random.key(seed)
    where = "own" if seed is None else f"seed{seed}"
    place = stored.place / "judged_again" / f"{where}-keys{keys}"
    added = {"judged again under": f"{keys} keys of {fingerprint(root)}"}
    identity = Identity({**stored.identity.parts, **added}, stored.identity.examples)
    about = {**about, "judging_keys": keys, "judging_seed": seed}
    records.claim(place, identity, about)
    known = records.read(place / "judged", identity)
    size = int(about["batch_size"]) if batch_size is None else batch_size
    mesh = lanes.local_mesh() if mesh is None else mesh
    at = lanes.Lanes(mesh, size, int(about.get("draws_at_once", 1)))
    policy = parse_policy(about["policy"], noise_parts(getattr(defense, "purifier", None)))
    missing = [i for i, index in enumerate(result.indices) if int(index) not in known]
    for start in range(0, len(missing), at.slots):
        chosen = np.array(missing[start : start + at.slots])
        indices = [int(i) for i in result.indices[chosen]]
        clean, found = (
            lanes.judge(at, defense, policy, root, indices, images[chosen], keys)
            for images in (result.clean_images, result.images)
        )
        rows = [
            {"index": index, "clean_logits": clean[i], "logits": found[i]}
            for i, index in enumerate(indices)
        ]
        records.append(place / "judged", rows, identity)
        known |= {row["index"]: row for row in rows}
    rows = [known[int(index)] for index in result.indices]
    return dataclasses.replace(
        result,
        clean_logits=np.stack([row["clean_logits"] for row in rows]),
        logits=np.stack([row["logits"] for row in rows]),
        about={**result.about, "judging_keys": keys, "judging_seed": seed},
    )


class Rejudged(NamedTuple):
    """What a second judgement of some images gave.

    Attributes:
      n: how many images.
      equal: logits that are the same to the bit, of all.
      total: all logits.
      largest: the largest difference, relative to the largest logit; inf where one is
        finite and the other not.
      changed: indices of examples of which some draw is right in one and wrong in the
        other.
      rounding: what `largest` may be.
    """

    n: int
    equal: int
    total: int
    largest: float
    changed: tuple[int, ...]
    rounding: float

    @property
    def ok(self) -> bool:
        return self.largest <= self.rounding

    def __str__(self) -> str:
        mark = "ok  " if self.ok else "FAIL"
        same = "to the bit" if self.equal == self.total else f"up to {self.largest:.2g}"
        changed = f"; decisions changed on {list(self.changed)}" if self.changed else ""
        return f"{mark}  {self.n} images judged anew give the same logits {same}{changed}"


def rejudge(
    result: Result,
    defense: Any,
    n: int,
    *,
    rounding: float = ROUNDING,
    mesh: Mesh | None = None,
) -> Rejudged:
    """Judges some of an evaluation's images anew and compares.

    Args:
      result: of the evaluation.
      defense: the very defense that was evaluated.
      n: how many images, spread over all of them.
      rounding: by how much a logit may differ, relative to the largest one.
      mesh: the devices; by default all of this host's.

    Raises:
      UserError: it is another defense, or the result does not say how it was judged.
    """
    check_range(1, n=n)
    about = result.about
    if "key" not in about or "parts" not in about:
        raise UserError(
            "the result does not say under which keys it was judged; take the one that "
            "evaluate returns, or that its folder holds"
        )
    _check_defense(defense, about["parts"])
    n = min(n, len(result))
    chosen = np.unique(np.linspace(0, len(result) - 1, n).round().astype(int))
    root = (
        root_key(about)
        if about.get("judging_seed") is None
        else jax.random.key(about["judging_seed"])
    )
    mesh = lanes.local_mesh() if mesh is None else mesh
    size, draws = int(about["batch_size"]), int(about.get("draws_at_once", 1))
    at = lanes.Lanes(mesh, size, draws)
    policy = parse_policy(about["policy"], noise_parts(getattr(defense, "purifier", None)))
    keys = int(about["judging_keys"])
    indices = [int(i) for i in result.indices[chosen]]
    anew = np.stack(
        [
            lanes.judge(at, defense, policy, root, indices, images[chosen], keys)
            for images in (result.clean_images, result.images)
        ]
    )
    before = np.stack([result.clean_logits[chosen], result.logits[chosen]])
    equal = (anew == before) | (np.isnan(anew) & np.isnan(before))
    scale = np.abs(before[np.isfinite(before)]).max(initial=1e-30)
    with np.errstate(invalid="ignore"):
        difference = np.where(equal, 0, np.abs(anew - before) / scale)
    largest = float(np.where(np.isfinite(difference), difference, np.inf).max())
    labels = result.labels[chosen]
    right = [
        np.isfinite(each).all(-1) & (each.argmax(-1) == labels[None, :, None])
        for each in (anew, before)
    ]
    changed = (right[0] != right[1]).any((0, 2))
    return Rejudged(
        n=len(chosen),
        equal=int(equal.sum()),
        total=equal.size,
        largest=largest,
        changed=tuple(int(i) for i in result.indices[chosen][changed]),
        rounding=rounding,
    )


def _check_defense(defense: Any, parts: Any) -> None:
    """Raises UserError for another defense than the one that was evaluated."""
    if fingerprint(defense) != parts["defense"]:
        raise UserError(
            "the evaluation is of another defense: its purifier, its weights or their "
            "options differ; give the very one that was evaluated"
        )
