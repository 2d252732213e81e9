"""Finds what a source means: a path, a URL of the list, or a hub id, fetched if need be."""

import hashlib
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from checkpoints_convert import published, sources
from checkpoints_convert.rules import ConversionError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def cache(name: str) -> Path:
    """A folder of the user's cache for what is fetched or made once."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "jaxpure" / name


def locate(source: str) -> tuple[Path, published.Published | None]:
    """The file or folder that a source means, fetched if need be, and what it should be."""
    if source.startswith(("http://", "https://")):
        entry = published.by_address(source)
        if entry is None:
            raise ConversionError(
                f"{source} is not a URL of --list: download it and give the path"
            )
        return _download(source, entry), entry
    if source.startswith("hf:"):
        return _from_hub(source.removeprefix("hf:")), published.by_address(source)
    path = Path(source)
    if path.exists():
        return path, None
    known = published.by_address(f"hf:{source}")
    if known or (HUB_ID.fullmatch(source) and not path.suffix):
        return _from_hub(source), known
    raise ConversionError(
        f"{source} is not a file or folder here, nor a URL of --list; a hub id is given as "
        "hf:OWNER/NAME"
    )


def _download(url: str, entry: published.Published) -> Path:
    """Fetches a URL into a folder of the user's cache, once; what is not it is not kept."""
    name = entry.file
    folder = hashlib.sha256(url.encode()).hexdigest()[:12]  # names are not unique
    out = cache("downloads") / folder / name
    if out.exists():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{name}.") as part:
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                length = int(response.headers.get("Content-Length", 0)) or None
                with tqdm.wrapattr(response, "read", total=length, desc=name) as body:
                    shutil.copyfileobj(body, part, 1 << 20)
        except (urllib.error.URLError, OSError) as error:
            raise ConversionError(f"could not fetch {url}: {error}") from error
        part.flush()
        found = sources.digest(Path(part.name))
        if length is not None and found.size != length:
            raise ConversionError(
                f"{url} was cut short: {found.size} of {length} bytes came; fetch it again"
            )
        if not published.matches(entry, found.size, found.md5, found.sha256):
            raise ConversionError(
                f"{url} gave another file than {entry.name}: {found.size} bytes, md5 "
                f"{found.md5}, sha256 {found.sha256[:12]}...; it was not kept"
            )
        os.link(part.name, out)
    return out


def _from_hub(hub_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise ConversionError(
            f"pip install 'jaxpure[convert]' to fetch {hub_id} from the hub"
        ) from error
    patterns = [
        "*.json",
        *sources.WEIGHT_FILES,
        *(f"unet/{n}" for n in sources.WEIGHT_FILES),
    ]
    try:
        files = snapshot_download(hub_id, allow_patterns=patterns)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise ConversionError(f"could not fetch {hub_id} from the hub: {first}") from error
    return Path(files)
