"""The scores of images that an interrupted tagging has finished, in a text file beside the label file."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.files import cannot_write, write_text


@dataclass(frozen=True)
class Entry:
    """The scores (K,) float32 of one image, and the identity of the image that they were made of."""

    source: str
    scores: np.ndarray


@dataclass(frozen=True)
class Journal:
    """The scores of finished images: the tagging goes on from there.

    record  how they are made, on the first line; scores made in another way are not taken
    """

    path: Path
    record: str

    def read(self) -> dict[str, Entry]:
        """Entries by id, as far as lines are whole."""
        try:
            first, *lines = self.path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError):
            return {}
        entries: dict[str, Entry] = {}
        for line in lines[:-1] if first == self.record else []:  # what follows the last line end is half a line
            try:
                image_id, source, values = json.loads(line)
                scores = np.array(values, np.float32)
                if not isinstance(image_id, str) or not isinstance(source, str) or scores.ndim != 1:
                    break
                entries[image_id] = Entry(source, scores)
            except (ValueError, TypeError, OverflowError, RecursionError):  # damaged: what follows is made again
                break
        return entries

    @contextmanager
    def adding(self, finished: Mapping[str, Entry]) -> Iterator[Callable[[str, Entry], None]]:
        """A function that adds an entry to the file, beside the finished ones; each is on the disk when it returns."""
        lines = [_line(image_id, entry) for image_id, entry in finished.items()]
        write_text(self.path, "".join([f"{self.record}\n", *lines]))
        with self.path.open("a", encoding="utf-8") as stream:

            def add(image_id: str, entry: Entry) -> None:
                try:
                    stream.write(_line(image_id, entry))
                    stream.flush()
                except OSError as error:
                    raise cannot_write(self.path, error) from error

            yield add


def journal_beside(labels: Path, record: str) -> Journal:
    """The journal of a label file."""
    return Journal(labels.with_name(f"{labels.name}.part"), record)


def forget_journal(labels: Path) -> None:
    """Remove the journal of a label file, once all that needs the labels is finished."""
    journal_beside(labels, "").path.unlink(missing_ok=True)


def _line(image_id: str, entry: Entry) -> str:
    return f"{json.dumps([image_id, entry.source, entry.scores.tolist()])}\n"
