"""Weights that open_clip knows by name: its cache or the network."""

import logging
import socket
from pathlib import Path
from urllib.request import getproxies

import open_clip
from huggingface_hub import try_to_load_from_cache

from common.errors import UserError

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # open_clip's names on the hub


def download(name: str, tag: str) -> Path:
    """The weight file of an open_clip name and tag, fetched or from the cache.

    Raises UserError for an unknown tag, and at once when there is no network, naming the file to put where.
    """
    source = open_clip.get_pretrained_cfg(name, tag)
    if not source:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise UserError(f"--pretrained {tag}: unknown for {name}; expected one of: {tags}, or a path")
    try:
        _fail_soon_without_network(source.get("hf_hub", ""))
        return Path(open_clip.download_pretrained(source))
    except Exception as error:  # no network: the hub, urllib and their proxies each raise their own
        where = source.get("hf_hub") or source.get("url") or "the model's page"
        where = f"{where}{HUB_FILES[0]}" if where.endswith("/") else where
        raise UserError(
            f"--model {name} --pretrained {tag}: cannot be downloaded ({_brief(error)}); fetch {where} "
            f"on a machine with internet, put it into weights/ and pass --model {name} --pretrained "
            f"weights/{Path(where).name}{' --activation quick_gelu' if tag == 'openai' else ''}"
        ) from error


def _brief(error: Exception) -> str:
    return "no network" if isinstance(error, OSError) else type(error).__name__


def _fail_soon_without_network(hub_entry: str) -> None:
    """Raise OSError at once where the hub's client would try for a minute and log every attempt."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not hub_entry:
        return
    repository, _, file = hub_entry.rpartition("/")
    cached = any(isinstance(try_to_load_from_cache(repository, name), str) for name in ([file] if file else HUB_FILES))
    if not cached and not getproxies():
        socket.getaddrinfo("huggingface.co", 443)
