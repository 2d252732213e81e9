"""`standard` against the original AutoAttack: the same images fall, but for one in 256."""

import json

import jax
import numpy as np
import pytest
from drawn import nhwc, uniform

from jaxpure import data
from jaxpure.attacks import BALLS, AutoAttack
from jaxpure.evaluation import evaluate, local_mesh

from . import reference, toys


@pytest.mark.parametrize("classifier", ["gray8", "rgb16"])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.slow
def test_robust_accuracy_is_the_originals(golden, tmp_path, norm, classifier):
    """On all images, and of the larger ones on the first 96, image by image."""
    count = {"gray8": 256, "rgb16": 96}[classifier]
    stored = golden(f"attack_autoattack_{norm}_{classifier}")
    meta = json.loads(str(stored["meta"]))
    shape = (256, *meta["classifier"]["shape"])
    x = nhwc(uniform(f"aa_x_{classifier}", 0, 1, shape))
    dataset = data.Dataset("toy", x, stored["y"].astype(np.int32), np.arange(256), 10)
    dataset = data.take(dataset, slice(count))
    defense = toys.undefended(reference.classifier_of(meta, "float32"))
    attack = AutoAttack()
    result = evaluate(
        defense,
        attack,
        dataset,
        ball=BALLS[norm.lower()](float(stored["eps"])),
        key=jax.random.key(0),
        judging_keys=1,
        batch_size=count // 2,
        folder=tmp_path,
        mesh=local_mesh(jax.devices()[:1]),
    )
    assert result.clean.all()
    robust = result.robust[:, 0]
    after, standing = {}, np.ones(count, bool)
    for name, _ in attack.attacks():
        standing &= result.broken_by != name
        after[name] = standing.mean()
    for run, flags in zip(meta["runs"], stored["robust_flags"].astype(bool), strict=True):
        assert abs(robust.mean() - flags[:count].mean()) <= 1 / count + 1e-9
        assert (robust != flags[:count]).sum() <= max(1, count // 100)
        if count < 256:
            continue
        assert abs(robust.mean() - run["robust_accuracy"]) <= 1 / 256 + 1e-9
        # Stages differ by their random starts.
        assert abs(after["apgd-ce"] - run["after"]["APGD-CE"]) <= 4 / 256
        assert abs(after["apgd-t"] - run["after"]["APGD-T"]) <= 2 / 256
