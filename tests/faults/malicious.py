"""Files that would run code when they are opened by a careless reader, or write elsewhere.

Every payload makes the file that the environment variable `MARKER` names.
"""

import importlib.util
import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

MARKER = "JAXPURE_MALICIOUS_MARKER"


def run_payload(*args: object) -> dict[str, object]:
    """What the payloads call: leaves a mark that it ran."""
    del args
    Path(os.environ[MARKER]).touch()
    return {}


class Bomb:
    """Runs the payload when it is unpickled."""

    def __reduce__(self):
        return run_payload, ()


class System:
    """The same through the system's shell, as real ones do."""

    def __reduce__(self):
        return os.system, (f"touch {os.environ[MARKER]}",)


class InState:
    """Runs it when its state is set."""

    def __reduce_ex__(self, protocol):
        return dict, (), None, None, iter([("weight", Bomb())])


def payloads() -> dict[str, object]:
    return {
        "a call": Bomb(),
        "the shell": System(),
        "a call in a state_dict": {"model": {"conv.weight": Bomb()}},
        "a call among the items": InState(),
    }


def pickles() -> Iterator[tuple[str, bytes]]:
    """Of every protocol, and with bytes before and after."""
    for name, payload in payloads().items():
        for protocol in range(6):
            yield f"pickle {protocol}, {name}", pickle.dumps(payload, protocol)
    yield "pickle, raw opcodes", _opcodes()
    yield "pickle after a magic number", pickle.dumps(0x1950A86A20F9469CFC6C) + _opcodes()
    legacy = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    yield (
        "legacy torch",
        b"".join(pickle.dumps(part, 2) for part in legacy) + pickle.dumps(Bomb(), 2),
    )


def _opcodes() -> bytes:
    command = f"touch {os.environ[MARKER]}"
    return f"cposix\nsystem\n(V{command}\ntR.".encode()


def archives() -> Iterator[tuple[str, bytes]]:
    """Zip and tar archives with pickles in them, or with names that climb."""
    evil = pickle.dumps(Bomb(), 2)
    yield "zip torch", _zip({"a/data.pkl": evil, "a/version": b"3\n"})
    yield (
        "zip torch, a stored byte order",
        _zip({"a/data.pkl": evil, "a/version": b"3\n", "a/byteorder": b"little"}),
    )
    for name in ("constants.pkl", "code/__torch__.py"):
        yield f"zip TorchScript, {name}", _zip({"a/data.pkl": evil, f"a/{name}": evil})
    yield "zip that climbs", _zip({"../../evil": b"x", "data.pkl": evil})
    yield "zip of an absolute path", _zip({os.environ[MARKER]: b"x"})
    yield "tar of a pickle", _tar({"pickle": evil, "storages": evil, "tensors": evil})
    yield "tar that climbs", _tar({"../../evil": b"x"})
    yield "tar of an absolute path", _tar({os.environ[MARKER]: b"x"})
    yield "tar of links", _tar({}, link=os.environ[MARKER])


def numpy_files() -> Iterator[tuple[str, bytes]]:
    """`.npy` and `.npz` whose arrays are pickled objects."""
    objects = np.array([Bomb(), System()], object)
    yield "npy of objects", _npy(objects)
    names = ("index", "label", "clean_logits", "logits", "images", "about")
    content = io.BytesIO()
    np.savez(content, **{name: objects for name in names})
    yield "npz of objects", content.getvalue()
    yield (
        "npz that climbs",
        _zip({"../../evil.npy": _npy(objects), "index.npy": _npy(objects)}),
    )
    header = "{'descr': __import__('os').system('touch $" + MARKER + "'), 'shape': (1,)}"
    text = header.encode().ljust(118) + b"\n"
    yield (
        "npy with code in its header",
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"\x00" * 8),
    )


def torchscript(folder: Path) -> Iterator[tuple[str, bytes]]:
    """An archive of TorchScript, whose loading compiles the code in it."""
    import torch

    path = folder / "script.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    yield "TorchScript", path.read_bytes()
    with zipfile.ZipFile(path) as found:
        content = {name: found.read(name) for name in found.namelist()}
    data = next(name for name in content if name.endswith("data.pkl"))
    yield "TorchScript with a pickle", _zip(content | {data: pickle.dumps(Bomb(), 2)})


def torch_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """What `torch.save` makes of objects, new and legacy."""
    import torch

    for zipped in (True, False):
        for name, payload in payloads().items():
            path = folder / "saved.pt"
            torch.save(payload, path, _use_new_zipfile_serialization=zipped)
            yield f"torch.save {'zip' if zipped else 'legacy'}, {name}", path.read_bytes()


def all_files(folder: Path) -> dict[str, bytes]:
    """Every malicious file by name; `folder` is for what torch writes, where there is one.

    Without torch there are those of its files that can be written by hand.
    """
    found = {**dict(pickles()), **dict(archives()), **dict(numpy_files())}
    if importlib.util.find_spec("torch"):
        found |= {**dict(torchscript(folder)), **dict(torch_files(folder))}
    return found


def _zip(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def _tar(files: dict[str, bytes], link: str = "") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        if link:
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                member = tarfile.TarInfo("test_batch.bin")
                member.type, member.linkname = kind, link
                archive.addfile(member)
    return content.getvalue()


def _npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=True)
    return content.getvalue()
