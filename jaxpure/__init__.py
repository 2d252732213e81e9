"""jaxpure: how much of a purified classifier's robustness survives randomness replay.

Import its modules: `from jaxpure import attacks, data, gradients, purifiers, randomness`.
A defense is a pure function of a key, `defense(key, x) -> logits`; docs/architecture.md
shows the whole house on one page.
"""
