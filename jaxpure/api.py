"""The front door: what one evaluation needs, by name or by object.

import jax, jaxpure as jp

defense = jp.defense("diffpure(t_star=50)", denoiser="digits_denoiser",
                     classifier="digits_classifier")
result = jp.evaluate(defense, "pgd(num_steps=20,step_size=8.5/255)", "digits",
                     ball="linf(51/255)", gradient="bpda", key=jax.random.key(0))
print(result)
"""

from typing import Any

import jax

from jaxpure import weights
from jaxpure.defenses import PurifiedClassifier
from jaxpure.models.network import ComputeDtype
from jaxpure.purifiers import PURIFIERS
from jaxpure.specs import build


def defense(
    purifier: Any,
    classifier: Any,
    *,
    denoiser: Any = None,
    compute_dtype: ComputeDtype = "float32",
) -> PurifiedClassifier:
    """A purified classifier, `(key, x) -> logits`.

    Args:
      purifier: a spec of `purifiers.PURIFIERS`, or any pure `(key, x) -> x` on one image in
        [0, 1]; "identity" is the undefended classifier.
      classifier: the name of bundled weights, the path of a weights file, or any pure
        `(x) -> logits`.
      denoiser: likewise, for a purifier that is given as a spec and needs one.
      compute_dtype: of the activations of networks that are given by name: "float32", or
        "bfloat16" on an accelerator.

    Raises:
      UserError: a name or a spec is wrong, or the parts do not fit together.
    """
    if denoiser is not None:
        denoiser = load_network(denoiser, compute_dtype)
    given = {} if denoiser is None else {"denoiser": denoiser}
    return PurifiedClassifier(
        _callable_pytree(build(PURIFIERS, purifier, **given)),
        load_network(classifier, compute_dtype),
    )


def load_network(network: Any, compute_dtype: ComputeDtype = "float32") -> Any:
    """A network by name or path; a function is returned as a callable pytree."""
    if isinstance(network, str):
        return weights.load(network, compute_dtype)
    return _callable_pytree(network)


def _callable_pytree(function: Any) -> Any:
    """A bare function as a pytree without leaves, which `jit` takes as an argument."""
    if jax.tree_util.all_leaves([function]):
        return jax.tree_util.Partial(function)
    return function
