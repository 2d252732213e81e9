r"""ImageNet: DiffPure under BPDA in L-inf 4/255, the defense's own noise replayed.

    python -m checkpoints_convert 256x256_diffusion_uncond.pt \
        weights/imagenet_denoiser.safetensors
    python -m checkpoints_convert resnet50-0676ba61.pth weights/resnet50.safetensors
    python -m experiments.run --config=imagenet_bpda_replay --data_dir=DIR

Images have 224 pixels, the denoiser 256: resized there and back (DiffPure). Any folder with
a folder of images for each class does for data:
--config.data='folder(PATH,image_size=224)'. Other classifiers are one override:
--config.classifier=weights/wide_resnet50_2.safetensors or weights/deit_small.safetensors;
without any weights, --config.denoiser=random:guided_unet --config.classifier=random:resnet
--dry_run tell what a run would cost. On a GPU or TPU, --config.compute_dtype=bfloat16.
"""

from experiments.config import RunConfig


def get_config() -> RunConfig:
    return RunConfig(
        data="imagenet2012(split=validation,num_examples=512,image_size=224)",
        denoiser="weights/imagenet_denoiser.safetensors",
        classifier="weights/resnet50.safetensors",
        purifier=(
            "resized(purifier=diffpure(t_star=150,"
            "step_rule=ddpm(variance=learned_range,clip=true)),image_size=256)"
        ),
        ball="linf(4/255)",
        attack="pgd(step_size=1/255,num_steps=50)",
        policy="replay",
        gradient="bpda",
        judging_keys=4,
        batch_size=4,
    )
