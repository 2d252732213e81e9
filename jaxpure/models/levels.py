"""The U that the denoisers share: levels of blocks going down, a middle, levels going up.

A network of this shape has the attributes `down`, `mid1`, `mid_attention`, `mid2` and
`up`; `build_levels` makes the lists, `run_levels` runs them. What a block, an attention
and a change of resolution are is the network's own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxpure.models.layers import Conv, upsample


class Level(nnx.Module):
    """Blocks at one resolution, attention after them, then a resize or none.

    Attributes:
      blocks: modules `(x, emb) -> x`.
      attentions: modules `(x) -> x`: none, one for each block, or a single one, which
        follows the last block.
      resize: a module `(x, emb) -> x`, a bare convolution, or None.
    """

    def __init__(self, blocks, attentions, resize):
        self.blocks = nnx.List(blocks)
        self.attentions = nnx.List(attentions)
        self.resize = resize

    def apply_block(self, j: int, x: jax.Array, emb: jax.Array) -> jax.Array:
        x = self.blocks[j](x, emb)
        after = j - (len(self.blocks) - len(self.attentions))
        return self.attentions[after](x) if len(self.attentions) and after >= 0 else x


def build_levels(
    widths: Sequence[int],
    num_res_blocks: int,
    attends: Sequence[bool],
    *,
    first: int,
    block: Callable[[int, int], nnx.Module],
    attention: Callable[[int], nnx.Module],
    shrink: Callable[[int], nnx.Module],
    grow: Callable[[int], nnx.Module],
    attend_once_going_up: bool = False,
) -> tuple[list[Level], list[Level]]:
    """The levels going down, finest first, and those going up, coarsest first.

    Args:
      widths: channels of each level, finest first.
      num_res_blocks: blocks a level going down; one more going up.
      attends: whether each level has attention.
      first: channels that enter.
      block: makes a block of so many channels in and out.
      attention: makes an attention of so many channels.
      shrink: makes what halves the resolution.
      grow: makes what doubles it.
      attend_once_going_up: attention after a level's last block alone.
    """
    down, skips, current, last = [], [first], first, len(widths) - 1
    for i, (out, attend) in enumerate(zip(widths, attends, strict=True)):
        sizes = [(current, out)] + [(out, out)] * (num_res_blocks - 1)
        skips += [out] * (num_res_blocks + (i < last))
        down.append(
            Level(
                [block(*size) for size in sizes],
                [attention(out) for _ in sizes if attend],
                shrink(out) if i < last else None,
            )
        )
        current = out
    up = []
    for i in reversed(range(len(widths))):
        out, blocks = widths[i], []
        for _ in range(num_res_blocks + 1):
            blocks.append(block(current + skips.pop(), out))
            current = out
        count = 1 if attend_once_going_up else len(blocks)
        attentions = [attention(out) for _ in range(count * attends[i])]
        up.append(Level(blocks, attentions, grow(out) if i else None))
    return down, up


def run_levels(net: Any, x: jax.Array, emb: jax.Array) -> jax.Array:
    """Down, through the middle and up again, from the first convolution's output."""
    skips = [x]
    for level in net.down:
        for j in range(len(level.blocks)):
            x = level.apply_block(j, x, emb)
            skips.append(x)
        if level.resize is not None:
            is_conv = isinstance(level.resize, Conv)
            x = level.resize(x) if is_conv else level.resize(x, emb)
            skips.append(x)

    x = net.mid2(net.mid_attention(net.mid1(x, emb)), emb)

    for level in net.up:
        for j in range(len(level.blocks)):
            x = level.apply_block(j, jnp.concatenate([x, skips.pop()], -1), emb)
        if level.resize is not None:
            is_conv = isinstance(level.resize, Conv)
            x = level.resize.of_upsampled(x) if is_conv else level.resize(x, emb)
    return x


def downsample(x: jax.Array) -> jax.Array:
    """Means of 2x2 pixels of `(..., H, W, C)`."""
    *lead, height, width, channels = x.shape
    x = x.reshape(*lead, height // 2, 2, width // 2, 2, channels)
    return jnp.mean(x, (-4, -2))


RESAMPLE = {"up": upsample, "down": downsample, "same": lambda x: x}
