"""What an evaluation is: its protocol and its examples, told apart by their digests.

Every record carries the digest of the evaluation that it belongs to and of the example that
it is about, so that no record is taken for another's: not after a change of the config, of
weights at the same path, of the data set, nor of how records are made (`VERSION`).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure.keys import Key
from jaxpure.pytrees import is_key

VERSION = 3  # of the protocol: what records mean, and under which keys they were made
SUBJECT = ("defense", "ball", "key", "data")  # parts of what is judged, however attacked


@dataclass(frozen=True)
class Identity:
    """What an evaluation's records belong to.

    Attributes:
      parts: what makes it the one it is, by name, as text or digests.
      examples: digest of each example by its published index.
    """

    parts: Mapping[str, str]
    examples: Mapping[int, str]

    @cached_property
    def digest(self) -> str:
        """Of the parts: the same for every share of the examples."""
        return digest_of(json.dumps(dict(self.parts), sort_keys=True).encode())

    @cached_property
    def evaluation_hash(self) -> str:
        """Of parts and examples: equal for runs of the same experiment."""
        return digest_of(self.digest.encode() + self._listed_examples)

    @cached_property
    def subject_hash(self) -> str:
        """Of the parts in `SUBJECT` and the examples: equal where only the attack differs.

        The attack with all that is its own: its policy and its gradient rule.
        """
        parts = {name: self.parts.get(name) for name in SUBJECT}
        return digest_of(json.dumps(parts).encode() + self._listed_examples)

    @property
    def _listed_examples(self) -> bytes:
        return json.dumps(sorted(self.examples.items())).encode()


def identify(setup: Any, key: Key, where: Any, dataset: Any) -> Identity:
    """The identity of an evaluation.

    Args:
      setup: an `evaluation.Setup`.
      key: the root key.
      where: the `lanes.Lanes`; rounding may depend on what is side by side there.
      dataset: the examples.
    """
    parts = {
        "version": str(VERSION),
        "defense": fingerprint(setup.defense),
        "seen defense": fingerprint(setup.seen),
        "attack": fingerprint([(s.attack, s.objective) for s in setup.stages]),
        "ball": fingerprint(setup.ball),
        "key": fingerprint(key),
        **{
            name: str(setup.about[name])
            for name in ("policy", "gradient", "judging_keys", "stages")
        },
        "batch_size": str(where.batch_size),
        "data": dataset.name,
        "about": about_digest(describe(setup, key, where)),
    }
    if where.draws_at_once != 1:
        parts["draws_at_once"] = str(where.draws_at_once)
    return Identity(parts, example_digests(dataset))


def describe(setup: Any, key: Key, where: Any) -> dict[str, Any]:
    """What else a verifier without the weights needs to know of an evaluation, as JSON.

    Args:
      setup: an `evaluation.Setup`.
      key: the root key.
      where: the `lanes.Lanes`.
    """
    data = jax.random.key_data(key)
    return {
        **setup.about,
        "batch_size": where.batch_size,
        "draws_at_once": where.draws_at_once,
        "matmul_precision": matmul_precision(),
        "key": [int(word) for word in np.asarray(data).ravel()],
        "key_impl": str(jax.random.key_impl(key)),
        "replays_all": setup.policy.replays_all,
        "budgets": [
            {
                "calls": int(stage.budget.calls),
                "gradient_draws": int(stage.budget.gradient_draws),
                "forward_draws": int(stage.budget.forward_draws),
            }
            for stage in setup.stages
        ],
    }


def matmul_precision() -> str:
    """At what precision float32 matrices are multiplied, as JAX is set."""
    if jax.default_backend() == "cpu":
        return "float32"  # whatever is asked for
    return jax.config.values["jax_default_matmul_precision"] or "default"


def about_digest(about: Mapping[str, Any]) -> str:
    """Of what `describe` says: every record belongs to that, too."""
    return digest_of(json.dumps(dict(about), sort_keys=True).encode())


def root_key(about: Mapping[str, Any]) -> Key:
    """The root key that `describe` wrote down."""
    words = jnp.array(about["key"], jnp.uint32)
    return jax.random.wrap_key_data(words, impl=about["key_impl"])


def example_digests(dataset: Any) -> dict[int, str]:
    """A digest of each example, its image as float32 and its label, by index."""
    images, labels = dataset.floats(), dataset.labels
    return {
        int(index): example_digest(images[i], int(labels[i]))
        for i, index in enumerate(dataset.indices)
    }


def example_digest(image: np.ndarray, label: int) -> str:
    """A digest of one example: its image `(H, W, C)` as float32 in [0, 1] and its label."""
    return digest_of(np.ascontiguousarray(image).tobytes() + label.to_bytes(8, "little"))


def fingerprint(tree: Any) -> str:
    """A digest of a pytree: its structure with all that is static, and its leaves.

    Functions in the structure count by their name, since their place in memory differs
    from run to run.
    """
    leaves, structure = jax.tree.flatten(tree)
    text = re.sub(r" at 0x[0-9a-f]+", "", str(structure))
    digest = hashlib.sha256(text.encode())
    for leaf in leaves:
        array = np.asarray(jax.random.key_data(leaf) if _is_typed_key(leaf) else leaf)
        digest.update(f"{array.shape}{array.dtype.name}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """Names of the parts in which two evaluations differ."""
    return sorted(n for n in {*ours, *theirs} if ours.get(n) != theirs.get(n))


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """A digest of arrays by name: their shapes, types and bytes."""
    content = [
        f"{name} {array.shape} {array.dtype.str}".encode() + array.tobytes()
        for name, array in sorted(arrays.items())
    ]
    return digest_of(b"".join(content))


def digest_of(content: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def _is_typed_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and is_key(leaf)
