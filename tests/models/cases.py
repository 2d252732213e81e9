"""One small instance a registered architecture, as a spec; and weights for any.

An architecture that is registered without a case fails the suite.
"""

import math

import jax
import numpy as np

from jaxpure import models

CASES = {
    "unet": "unet(image_size=8,in_channels=1,out_channels=1,channels=8,channel_mult=[1,2],"
    "num_res_blocks=1,attention_resolutions=[4],num_groups=4)",
    "guided_unet": "guided_unet(image_size=8,channels=32,channel_mult=[1.0],"
    "num_res_blocks=1,attention_levels=[],head_channels=16)",
    "ncsnpp": "ncsnpp(image_size=8,channels=16,channel_mult=[1],num_res_blocks=1,"
    "attention_resolutions=[])",
    "wide_resnet": "wide_resnet(depth=10,width=1,image_size=8,in_channels=1,mean=[0.3],"
    "std=[0.38])",
    "resnet": "resnet(layers=[1,1],planes=[8,16],block=basic,stem=cifar,stem_width=8,"
    "num_classes=7,image_size=8)",
    "vit": "vit(image_size=8,patch_size=4,features=12,depth=1,num_heads=3,mlp_features=24,"
    "num_classes=5)",
    "airnet": "airnet(widths=[8,8],image_size=8,in_channels=1,mean=[0.3],std=[0.38])",
    "conv_mixer": "conv_mixer(features=8,depth=1,kernel_size=3,image_size=8)",
    "efficientnet_lite": "efficientnet_lite(widths=[8,8],layers=[1,2],kernel_sizes=[3,5],"
    "strides=[1,2],expansions=[1,2],stem_width=8,head_width=16,num_classes=7,image_size=10)",
    "naf_unet": "naf_unet(image_size=8,widths=[8,16],blocks=[1,1],time_features=16)",
}


def filled(architecture) -> models.Network:
    """A network whose parameters are all at work, none zero, drawn by numpy.

    `models.create` compiles a program of all initialisers, which takes longer than most
    tests.
    """
    random = np.random.default_rng(0)

    def draw(path, leaf):
        z = random.standard_normal(leaf.shape).astype(np.float32)
        name = jax.tree_util.keystr(path, simple=True, separator=".").rsplit(".", 1)[-1]
        if name == "var":
            return 1 + np.abs(z) / 10
        if name == "scale":
            return 1 + z / 10
        fan_in = math.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 100
        return z / np.float32(math.sqrt(fan_in))

    shapes = models.abstract(architecture)
    params = jax.tree_util.tree_map_with_path(draw, shapes.params)
    return models.Network(architecture, jax.tree.map(jax.numpy.asarray, params))
