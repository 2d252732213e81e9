"""Purifiers and classifiers whose every statistic is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure.diffusion import Ddpm, Linear
from jaxpure.dissect.draws import noise_at, part
from jaxpure.purifiers import DiffPure, RevPure

SHAPE = (4, 3, 2)
SIZE = 24
SCHEDULE = Linear(100)


def matrix(seed: int = 0, size: int = SIZE) -> np.ndarray:
    """A square matrix with singular values 1, 0.8, 0.64, ..."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
    return (u * 0.8 ** np.arange(size)) @ v.T


def linear_map(a: jax.Array):
    """x -> A x, on images."""
    return lambda x: (a @ x.reshape(-1)).reshape(x.shape)


def additive(sigma: float, x_weight: float = 1.0):
    """The purifier x_weight * x + sigma * noise."""
    return lambda key, x: x_weight * x + sigma * noise_at(part(key, "forward"), 0, x)


def gaussian_denoiser(mean: jax.Array, deviation: jax.Array):
    """The best denoiser of data N(mean, diag(deviation^2)), in the diffusion's range."""

    def denoise(mean, deviation, x, t):
        table = jnp.asarray(SCHEDULE.alphas_cumprod, x.dtype)
        signal = table[t.astype(int)]
        variance = signal * deviation**2 + 1 - signal
        return jnp.sqrt(1 - signal) * (x - jnp.sqrt(signal) * mean) / variance

    return jax.tree_util.Partial(denoise, mean, deviation)


def gaussian_purifier(mean, deviation, *, t_star: int = 20, forward: bool = True):
    kind = DiffPure if forward else RevPure
    denoiser = gaussian_denoiser(mean, deviation)
    return kind(denoiser, t_star=t_star, step_rule=Ddpm(), schedule=SCHEDULE)


def gaussian_gain(deviation: np.ndarray, t_star: int, forward: bool = True) -> np.ndarray:
    """The diagonal of the purifier's Jacobian, step by step in float64.

    A DDPM step with the exact posterior mean x0 = mean + gain (x - sqrt(abar) mean) is
    linear in x, so the chain's Jacobian is a product of scalars for each pixel.
    """
    bars = np.concatenate([SCHEDULE.alphas_cumprod, [1.0]])
    gain = np.full_like(deviation, np.sqrt(bars[t_star - 1]) if forward else 1.0)
    for t in range(t_star - 1, -1, -1):
        bar, below = bars[t], bars[t - 1]
        beta = 1 - bar / below
        clean = np.sqrt(bar) * deviation**2 / (bar * deviation**2 + 1 - bar)
        gain = gain * (
            np.sqrt(below) * beta / (1 - bar) * clean
            + np.sqrt(bar / below) * (1 - below) / (1 - bar)
        )
    return gain
