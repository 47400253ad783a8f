"""Networks of transformers by folder or by name of the Hugging Face hub. No code in them is run."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.provenance import source_of

REACHED_S = 10  # within which the hub must answer
FILES = "config.json, preprocessor_config.json and model.safetensors"


def load_pretrained(
    name: str | None, load: Callable[..., Any], option: str, kinds: Collection[str], files: str = FILES
) -> Any:
    """What `load` makes of a folder or name, after a look at which kind of network its configuration names.

    load   takes the folder or name, and `local_files_only`
    kinds  the `model_type`s that will do
    files  what a folder must hold, to people
    Raises UserError, naming the option, for anything else, and at once where there is no network.
    """
    if name is None:
        raise UserError(f"{option} is needed: a folder with {files}, or a name of the Hugging Face hub")
    if Path(name).is_file():
        raise UserError(f"{option} {name}: a file; expected a folder with {files}")
    from huggingface_hub import HfApi
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    is_folder = Path(name).is_dir()
    try:
        try:
            config, local = AutoConfig.from_pretrained(name, local_files_only=True), True
        except OSError:
            if is_folder:
                raise
            HfApi().repo_info(name, timeout=REACHED_S)  # fails at once where loading would try for minutes
            config, local = AutoConfig.from_pretrained(name), False
        if config.model_type not in kinds:
            raise UserError(f"{option} {name}: a network of the kind {config.model_type}; expected {', '.join(kinds)}")
        return load(name, local_files_only=local)
    except UserError:
        raise
    except Exception as error:  # of many libraries: no network, no such name, damaged files
        if _gated(error):
            raise UserError(
                f"{option} {name}: its weights are given out on request only; ask for them on its page, log in with "
                f"`hf auth login`, or put {files} into a folder and pass that"
            ) from error
        where = f"in this folder; expected {files}"
        if not is_folder:
            where = f"on this machine, and it cannot be downloaded; put {files} into a folder and pass that"
        raise UserError(f"{option} {name}: no readable network {where}") from error


def _gated(error: BaseException | None) -> bool:
    """Whether the hub refused the files to people who did not ask for them."""
    from huggingface_hub.errors import GatedRepoError

    return error is not None and (isinstance(error, GatedRepoError) or _gated(error.__cause__ or error.__context__))


def identity_of(name: str | None) -> str:
    """What tells the weights of a folder from others, for records; empty for a name of the hub."""
    files = sorted(Path(name).glob("*.safetensors")) if name else []
    return " ".join(map(source_of, files))
