"""The record of how a file was made, and the check that an existing file can be kept.

Every file that a stage writes carries a record: a JSON object of the settings that made it. Its entry `source` names
the image that the file was made from by that image's content, so that a photo replaced by another one of the same name,
size and date is noticed. CAM files, masks, tags, predictions and run.json are all compared by these functions.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError, in_short

MOST_RECORD = 1 << 18  # characters of a record
SOURCE = "source"  # of a record: the image that a file was made from
REGIONS = "regions"  # of a record: the file of regions that a file was made from
VOTERS = "voters"  # of a record: the file of masks that voted on a mask
OF_ONE_IMAGE = (SOURCE, REGIONS, VOTERS, "keys")  # entries that differ from image to image
WORDS = {
    "cams": "the maps (model, words, method or --max_side)",
    "keys": "the labels",
    "votes": "the masks that vote (--votes and its options)",
}  # for entries that say too little


def source_of(path: Path) -> str:
    """The identity of an image file: its length in bytes and 16 hex digits of a hash of all of it.

    Raises UserError for a file that cannot be read.
    """
    digest = hashlib.blake2b(digest_size=8)
    length = 0
    try:
        with path.open("rb", buffering=0) as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
                length += len(block)
    except (OSError, ValueError) as error:  # the latter for a name with a NUL byte
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    return f"{length}-{digest.hexdigest()}"


def record_text(record: Mapping[str, Any]) -> str:
    """A record as the text that lies in a file; equal records give equal texts."""
    return json.dumps(dict(record), sort_keys=True)


def parse_record(text: str) -> dict[str, Any]:
    """The record in a text. Raises ValueError for a text that is no JSON object, or too large or deep."""
    if len(text) > MOST_RECORD:
        raise ValueError(f"a record of {len(text)} characters")
    try:
        record = json.loads(text)
    except RecursionError as error:
        raise ValueError("a record that is nested too deep") from error
    if not isinstance(record, dict):
        raise ValueError("a record that is no JSON object")
    return record


def differences(old: Mapping[str, Any], new: Mapping[str, Any], ignored: Collection[str] = ()) -> str:
    """The differences between two records, for people: `box_threshold 0.4 (now 0.5), ...`; empty without any.

    Records of two methods have different settings, so that only the methods are named.
    """
    new = json.loads(record_text(new))  # tuples are lists in a file
    keys = [key for key in dict.fromkeys([*new, *old]) if key not in ignored and old.get(key) != new.get(key)]
    if "method" in keys:
        keys = [key for key in keys if key in ("method", "kind", "model", "dataset")]
    return ", ".join(WORDS.get(key) or f"{key} {in_short(old.get(key))} (now {in_short(new.get(key))})" for key in keys)


def check_source(path: Path, record: Mapping[str, Any], photo: Path) -> None:
    """Raise UserError when a file says that it was made from another photo than there is now."""
    if record.get(SOURCE) not in (None, source_of(photo)):
        raise UserError(f"{path}: made from another photo than {photo} is now; make it again")


def can_stay(path: Path, old: Mapping[str, Any], new: Mapping[str, Any], remedy: str) -> bool:
    """Whether a file can be kept, by its record and the record that it would get now.

    remedy  what to do about a file that was made in another way, such as "pass --overwrite"
    Returns False when it was made in the same way from another source: the image was replaced and is processed again,
    whatever its labels are now. Raises UserError, with the differences, when it was made in another way.
    """
    same_image = all(old.get(key) == new.get(key) for key in (SOURCE, REGIONS, VOTERS))
    if not old:
        raise UserError(f"{path}: it does not say how it was made; {remedy}")
    if detail := differences(old, new, ignored=(SOURCE,) if same_image else OF_ONE_IMAGE):
        raise UserError(f"{path}: made with other settings: {detail}; {remedy}")
    return same_image


@dataclass
class SameSettings:
    """Files that are scored together must have been made in one way: their sum would be the score of neither.

    A file that does not say how it was made is trusted, but for the kind of its maps.
    """

    recorded: tuple[Path, Mapping[str, Any]] | None = None
    kinds: tuple[Path, str] | None = None

    def add(self, path: Path, record: Mapping[str, Any]) -> None:
        """Raise UserError, which names two files and says what differs, for one that does not go with the others."""
        remedy = "give each way a folder of its own"
        kind = str(record.get("kind", "cam"))
        self.kinds = self.kinds or (path, kind)
        record = {"kind": kind, **record} if record else record
        if record:
            self.recorded = self.recorded or (path, record)
            first, first_record = self.recorded
            if detail := differences(first_record, record, ignored=OF_ONE_IMAGE):
                detail = detail.replace("(now ", "(there ")
                raise UserError(f"{first} and {path} were made in different ways: {detail}; {remedy}")
        if kind != self.kinds[1]:
            raise UserError(f"{self.kinds[0]} and {path} hold maps of kind {self.kinds[1]} and {kind}; {remedy}")
