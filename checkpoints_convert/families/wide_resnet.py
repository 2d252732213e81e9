"""Wide residual networks for CIFAR: RobustBench's, DiffPure's with dropout, DeepMind's.

The first two share their tensors' names and differ in what is done to the input; the
70-16 of DiffPure is known by its size. Files named by no other means take `--family`.
"""

from functools import partial

from checkpoints_convert.family import Contents, Family
from checkpoints_convert.rules import Layer
from jaxpure.models import WideResNet

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


def _from_trades(contents: Contents, **known) -> WideResNet:
    shapes = contents.shapes
    return WideResNet(
        depth=6 * contents.count("block1.layer.{}.") + 4,
        width=shapes["block1.layer.0.conv1.weight"][0] // 16,
        num_classes=shapes["fc.weight"][0],
        in_channels=shapes["conv1.weight"][1],
        **known,
    )


def _from_deepmind(contents: Contents) -> WideResNet:
    shapes = contents.shapes
    stored = contents.has("mean", "std")  # some RobustBench entries bring their own
    mean = contents.read("mean").ravel().tolist() if stored else CIFAR_MEAN
    std = contents.read("std").ravel().tolist() if stored else CIFAR_STD
    return WideResNet(
        depth=6 * contents.count("layer.0.block.{}.") + 4,
        width=shapes["layer.0.block.0.conv_0.weight"][0] // 16,
        num_classes=shapes["logits.weight"][0],
        in_channels=shapes["init_conv.weight"][1],
        mean=tuple(mean),
        std=tuple(std),
        activation="swish",
        pad_after=True,
    )


def _layers(
    config: WideResNet, group: str, first: int, names: dict[str, str]
) -> list[Layer]:
    """Rows for blocks `group.format(g)`; here they are numbered through all groups."""
    per_group = (config.depth - 4) // 6
    table = []
    for g in range(3):
        for i in range(per_group):
            source, target = group.format(g + first, i), f"blocks.{g * per_group + i}"
            table += [
                Layer("batch_norm", rf"{source}\.{names['norm1']}", f"{target}.norm1"),
                Layer("batch_norm", rf"{source}\.{names['norm2']}", f"{target}.norm2"),
                Layer("conv", rf"{source}\.{names['conv1']}", f"{target}.conv1"),
                Layer("conv", rf"{source}\.{names['conv2']}", f"{target}.conv2"),
                Layer("conv", rf"{source}\.{names['shortcut']}", f"{target}.shortcut"),
            ]
    return table


def _trades_layers(config: WideResNet) -> list[Layer]:
    names = {name: name for name in ("conv1", "conv2")}
    names |= {"norm1": "bn1", "norm2": "bn2", "shortcut": "convShortcut"}
    return [
        Layer("conv", "conv1", "conv_in"),
        Layer("batch_norm", "bn1", "norm_out"),
        Layer("dense", "fc", "logits"),
        # Built by TRADES's code, saved, and never called.
        Layer("ignored", r"sub_block1\..*"),
        *_layers(config, r"block{}\.layer\.{}", 1, names),
    ]


def _deepmind_layers(config: WideResNet) -> list[Layer]:
    names = {"conv1": "conv_0", "conv2": "conv_1", "shortcut": "shortcut"}
    names |= {"norm1": "batchnorm_0", "norm2": "batchnorm_1"}
    return [
        Layer("conv", "init_conv", "conv_in"),
        Layer("batch_norm", "batchnorm", "norm_out"),
        Layer("dense", "logits", "logits"),
        Layer("ignored", "mean|std"),  # read by `_from_deepmind`
        *_layers(config, r"layer\.{}\.block\.{}", 0, names),
    ]


def _is_trades(contents: Contents) -> bool:
    return contents.has("block1.layer.0.bn1.weight", "fc.weight")


def _is_70_16(contents: Contents) -> bool:
    first = contents.shapes.get("block1.layer.0.conv1.weight", (0,))[0]
    return first == 256 and contents.count("block1.layer.{}.") == 11


ROBUSTBENCH = Family(
    name="robustbench_wrn",
    about="RobustBench WideResNet in TRADES's form (CIFAR-10 `Standard`): no normalisation",
    recognise=lambda c: _is_trades(c) and not _is_70_16(c),
    architecture=_from_trades,
    layers=_trades_layers,
)

DIFFPURE_DROPOUT = Family(
    name="diffpure_wrn_dropout",
    about="DiffPure's WRN-70-16-dropout: the same form, CIFAR mean and std inside",
    recognise=lambda c: _is_trades(c) and _is_70_16(c),
    architecture=partial(_from_trades, mean=CIFAR_MEAN, std=CIFAR_STD),
    layers=_trades_layers,
)

DEEPMIND = Family(
    name="deepmind_wrn",
    about="DeepMind's WRN-28-10 and 70-16 with swish (RobustBench, DiffPure's WRN-70-16)",
    recognise=lambda c: c.has("layer.0.block.0.batchnorm_0.weight", "init_conv.weight"),
    architecture=_from_deepmind,
    layers=_deepmind_layers,
)
