"""What the open_clip package knows: its data files, models by name, and where weights are downloaded from.

The package itself is imported only to download, or to list what can be: importing it takes longer than torch.
"""

import importlib.util
import json
import logging
import socket
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.package import how_to_install

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # open_clip's names on the hub


def package_file(name: str) -> Path:
    """A data file of the installed open_clip, which is not imported. Raises UserError where it is not installed."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the package open_clip_torch is not installed; {how_to_install('')}")
    return Path(spec.submodule_search_locations[0], name)


def model_config(name: str) -> dict[str, Any] | None:
    """open_clip's configuration of a model; None for a name that it does not have."""
    files = package_file("model_configs").glob("*.json")
    path = next((path for path in files if path.stem == name), None)
    return json.loads(path.read_text(encoding="utf-8")) if path else None


def pretrained_tags(name: str) -> list[str]:
    """The tags of a model for which open_clip knows where the weights are."""
    import open_clip

    return list(open_clip.list_pretrained_tags_by_model(name))


def tag_config(name: str, tag: str) -> dict[str, Any]:
    """What open_clip knows of weights by name and tag; empty where it knows nothing."""
    import open_clip

    return open_clip.get_pretrained_cfg(name, tag) or {}


def download(name: str, tag: str) -> Path:
    """The weight file of an open_clip name and tag, fetched or from the cache.

    Raises UserError for an unknown tag, and at once when there is no network, naming the file to put where.
    """
    source = tag_config(name, tag)
    if not source:
        tags = ", ".join(pretrained_tags(name)) or "none"
        raise UserError(f"--pretrained {tag}: unknown for {name}; expected one of: {tags}, or a path")
    try:
        import open_clip

        _fail_soon_without_network(source.get("hf_hub", ""))
        return Path(open_clip.download_pretrained(source))
    except Exception as error:  # no network: the hub, urllib and their proxies each raise their own
        where = source.get("hf_hub") or source.get("url") or "the model's page"
        where = f"{where}{HUB_FILES[0]}" if where.endswith("/") else where
        reason = "no network" if isinstance(error, OSError) else type(error).__name__
        raise UserError(
            f"--model {name} --pretrained {tag}: cannot be downloaded ({reason}); fetch {where} "
            f"on a machine with internet, put it into weights/ and pass --model {name} --pretrained "
            f"weights/{Path(where).name}{' --activation quick_gelu' if tag == 'openai' else ''}"
        ) from error


def _fail_soon_without_network(hub_entry: str) -> None:
    """Raise OSError at once where the hub's client would try for a minute and log every attempt."""
    from urllib.request import getproxies

    from huggingface_hub import try_to_load_from_cache

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not hub_entry:
        return
    repository, _, file = hub_entry.rpartition("/")
    cached = any(isinstance(try_to_load_from_cache(repository, name), str) for name in ([file] if file else HUB_FILES))
    if not cached and not getproxies():
        socket.getaddrinfo("huggingface.co", 443)
