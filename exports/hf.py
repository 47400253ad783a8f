"""A Hugging Face image folder: metadata.jsonl names the mask of each image, so that `datasets` loads both as images."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError, in_short
from common.files import write_text
from dataset.spec import IGNORE_INDEX
from exports.files import Add, Example, Format, Job


@contextmanager
def writing(job: Job) -> Iterator[Add]:
    """<part>/images, <part>/masks, <part>/metadata.jsonl, id2label.json, README.md.

    `pixels` and `scores` hold a number for each label, in every line: `datasets` guesses the types of a column from its
    values, and refuses parts for which it guesses different ones.
    """
    lines: dict[str, list[dict[str, Any]]] = {part: [] for part in job.parts}

    def add(example: Example) -> None:
        places = {
            "file_name": job.place_image(example, f"{example.part}/images"),
            "mask_file_name": job.place_mask(example, f"{example.part}/masks"),
        }
        line: dict[str, Any] = {key: place.removeprefix(f"{example.part}/") for key, place in places.items()}
        line["id"] = example.id
        line["pixels"] = np.bincount(example.labels.ravel(), minlength=256)[: len(job.labels)].tolist()
        line["scores"] = [float(example.confidence.get(value, 0)) for value in range(len(job.labels))]
        lines[example.part].append(line)

    yield add
    for part, found in lines.items():
        write_text(job.path(f"{part}/metadata.jsonl"), "".join(f"{json.dumps(line)}\n" for line in found))
    write_text(job.path("id2label.json"), json.dumps(dict(enumerate(job.labels)), indent=1))
    write_text(job.path("README.md"), _card(job))


def _card(job: Job) -> str:
    """The data set card. A mask's values are told here, since an image column has no place for them."""
    files = "".join(
        f"  - split: {'validation' if part == 'val' else part}\n    path: {part}/**\n" for part in job.parts
    )
    values = "".join(f"| {value} | {name} |\n" for value, name in enumerate(job.labels))
    ignored = "" if job.ignored else f"| {IGNORE_INDEX} | not sure, to be ignored |\n"
    return f"""---
task_categories:
- image-segmentation
configs:
- config_name: default
  data_files:
{files}---

Pseudo masks made with CLIP. `mask` holds a value a pixel; `pixels` and `scores` are the number of pixels and the mean
confidence of each value, 0 where it is not known.

| value | label |
|---|---|
{values}{ignored}"""


def check_push(repo: str) -> str:
    """The token that uploads; raises UserError, before any work, without one or for a name that is none."""
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"--push {repo}: not the name of a data set; expected USER/NAME") from error
    token = get_token()
    if not token:
        remedy = "run `hf auth login`, or set HF_TOKEN to one that may write"
        raise UserError(f"--push {repo}: no token for the Hugging Face Hub; {remedy}")
    return token


def push(folder: Path, repo: str, token: str) -> str:
    """Upload a folder that was written as a private data set, or into the one that is there; returns its address.

    Raises UserError when that fails; what was written stays.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi(token=token)
        address = api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=folder)
    except Exception as error:  # of the network, of rights, of its own checks
        raise UserError(f"--push {repo}: not uploaded ({in_short(error)}); {folder} is written") from error
    return str(address)


FORMAT = Format(writing, "README.md", options=frozenset({"push"}), links=False, listed=False)
