"""What is measured: works, and who does each, as data.

Nothing here imports JAX or PyTorch: each peer runs in a process of its own, which imports
what that peer needs and no more (`benchmarks.worker`).
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from experiments.devices import physical_cores
from jaxpure.errors import UserError, unknown


class Task(NamedTuple):
    """A work, ready to be done by one peer.

    Attributes:
      call: does it once, and waits for it to be done.
      facts: what is known after the last call: "evaluations" (forward passes of the
        network for each image), "operations" (floating-point, of one call), and others.
    """

    call: Callable[[], object]
    facts: Callable[[], dict[str, float]]


@dataclass(frozen=True)
class Peer:
    """One way of doing a work.

    Attributes:
      name: as the table shows it.
      task: "module.function" of this package that makes the `Task`.
      options: its keyword arguments, besides the folder of the run.
      left_out: why it is not run, if it is not.
    """

    name: str
    task: str
    options: Mapping[str, Any] = field(default_factory=dict)
    left_out: str | None = None

    def prepare(self, folder: str) -> Task:
        return called(self.task, folder, **self.options)


@dataclass(frozen=True)
class Work:
    """One row of the benchmarks, or for `scaling` a curve.

    Attributes:
      about: what is done, in words.
      images: of one call.
      peers: who does it, in the order of a round; ratios are to the first.
      seconds: about how long a process takes on two cores, to tell what a run costs.
      tells_share: whether its operations are counted, for the share of the machine's rate.
      ready: "module.function" that makes what the peers share, and compares what they
        compute; returns facts to be told.
      ready_options: its keyword arguments, besides the folder.
    """

    about: str
    images: int
    peers: tuple[Peer, ...]
    seconds: float
    tells_share: bool = False
    ready: str | None = None
    ready_options: Mapping[str, Any] = field(default_factory=dict)

    def peer(self, name: str) -> Peer:
        return next(peer for peer in (MATMUL, *self.peers) if peer.name == name)


MATMUL = Peer("a product of two 2048 x 2048 matrices", "worker.matmul")


def called(name: str, *args: Any, **options: Any) -> Any:
    """The result of a function of this package by its name, imported when it is called."""
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(f"benchmarks.{module}"), function)(
        *args, **options
    )


def works(quick: bool) -> dict[str, Work]:
    """All works by name, in small shapes where it is `quick`."""
    compact = ("tiny", 2, 2) if quick else ("compact", 10, 16)
    published = ("tiny", 2, 2) if quick else ("published", 5, 8)
    return {
        "chain": _chain(*compact, gradient=False, seconds=35),
        "chain_gradient": _chain(*compact, gradient=True, seconds=60),
        "published_chain": _chain(*published, gradient=False, seconds=75),
        "published_chain_gradient": _chain(*published, gradient=True, seconds=160),
        "pgd": _attack("pgd", *((4, 2) if quick else (64, 20))),
        "apgd": _attack("apgd", *((4, 2) if quick else (64, 20))),
        "digits_bpda_replay": _command(2 if quick else 200, quick),
        "scaling": _scaling(quick),
    }


def chosen(only: str | None, quick: bool) -> dict[str, Work]:
    """The works that `--only` names, in its order; all without it.

    In quick's shapes the published network's are those of the compact one: left out there,
    unless they are named.

    Raises:
      UserError: one is not known.
    """
    known = works(quick)
    names = [name for name in known if not (quick and name.startswith("published"))]
    if only is not None:
        names = [name.strip() for name in only.split(",")]
    for name in names:
        if name not in known:
            raise UserError(f"--only: {unknown('work', name, known)}")
    return {name: known[name] for name in names}


def _chain(
    network: str, steps: int, images: int, *, gradient: bool, seconds: float
) -> Work:
    what = {"network": network, "steps": steps, "images": images, "gradient": gradient}
    eager, compiled = ({**what, "compiled": each} for each in (False, True))
    slow = "left out of --quick: it compiles for a minute or more"
    return Work(
        about=f"{'the exact gradient through ' if gradient else ''}{steps} ancestral steps "
        f"of the {network} U-Net",
        images=images,
        peers=(
            *_ours("chains.task", what),
            Peer("PyTorch, channels last", "chains_torch.task", eager),
            Peer(
                "PyTorch, torch.compile",
                "chains_torch.task",
                compiled,
                left_out=slow if network == "tiny" else None,
            ),
        ),
        seconds=seconds,
        tells_share=True,
        ready="chains_shared.ready",
        ready_options={"network": network, "gradient": gradient},
    )


def _attack(name: str, images: int, steps: int) -> Work:
    what = {"attack": name, "images": images, "steps": steps}
    others = {
        "pgd": (
            Peer("Foolbox on PyTorch, channels last", "attacks_torch.foolbox_pgd"),
            Peer("Foolbox on JAX", "attacks.foolbox_pgd"),
        ),
        "apgd": (Peer("AutoAttack's (PyTorch), channels last", "attacks_torch.apgd"),),
    }[name]
    size = {"images": images, "steps": steps}
    return Work(
        about=f"{steps} updates of {name.upper()} on the CIFAR-10 classifier, Linf 8/255",
        images=images,
        peers=(
            *_ours("attacks.task", what),
            *(Peer(peer.name, peer.task, size) for peer in others),
        ),
        seconds=25,
        tells_share=True,
        ready="attacks_shared.ready",
    )


def _ours(task: str, what: Mapping[str, Any]) -> tuple[Peer, Peer]:
    """As the commands do it, and on one device of JAX."""
    return (
        Peer("jaxpure, a device a core", task, {**what, "devices": None}),
        Peer("jaxpure, one device", task, {**what, "devices": 1}),
    )


def _command(images: int, quick: bool) -> Work:
    return Work(
        about=f"the README's first command on {images} digits, with a warm compile cache",
        images=images,
        peers=(Peer("jaxpure", "command.task", {"images": images, "quick": quick}),),
        seconds=60 if quick else 150,
    )


def _scaling(quick: bool) -> Work:
    base = {"batch": 16, "steps": 10, "draws": 1, "size": 16, "devices": 1}
    curves = {
        "batch": (1, 4, 16, 64),
        "steps": (2, 5, 10, 20, 40),
        "draws": (1, 2, 4, 8),
        "size": (8, 16, 32, 64),
        "devices": tuple(2**i for i in range(physical_cores().bit_length())),
    }
    if quick:
        base = {"batch": 2, "steps": 2, "draws": 1, "size": 8, "devices": 1}
        curves = {"batch": (2, 4), "devices": (2,)}
    points = {
        f"{axis} {value}": {**base, axis: value}
        for axis, values in curves.items()
        for value in values
    }
    told = ", ".join(f"{axis} {value}" for axis, value in base.items())
    return Work(
        about=f"a gradient through a purified classifier with a small U-Net; {told}, "
        "but for what is named",
        images=base["batch"],
        peers=tuple(Peer(name, "scaling.task", o) for name, o in points.items()),
        seconds=20,
    )
