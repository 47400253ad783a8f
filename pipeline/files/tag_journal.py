"""What an interrupted tagging has finished: the scores of images, in a text file beside the label file."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from common.files import cannot_write, write_text

if TYPE_CHECKING:
    from pipeline.stages.tags import Tags


@dataclass(frozen=True)
class Journal:
    """The scores of finished images: the tagging goes on from there.

    record  how they are made, on the first line; scores made in another way are not taken
    """

    path: Path
    record: str

    def read(self) -> dict[str, np.ndarray]:
        """Scores (K,) float32 by id, as far as lines are whole."""
        try:
            first, *lines = self.path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError):
            return {}
        # After the last line end there is nothing, or half a line.
        return dict(_scores(lines[:-1])) if first == self.record else {}

    def noting(self, finished: Mapping[str, np.ndarray], tags: "Iterator[Tags]") -> "Iterator[Tags]":
        """The same tags; each is in the file, beside the finished ones, before it is passed on."""
        known = [_line(image_id, scores) for image_id, scores in finished.items()]
        write_text(self.path, "".join([f"{self.record}\n", *known]))
        with self.path.open("a", encoding="utf-8") as stream:
            for tag in tags:
                if tag.scores is not None:
                    self._write(stream, _line(tag.id, tag.scores))
                yield tag

    def _write(self, stream: IO[str], line: str) -> None:
        try:
            stream.write(line)
            stream.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from error


def journal_beside(labels: Path, record: str) -> Journal:
    """The journal of a label file."""
    return Journal(labels.with_name(f"{labels.name}.part"), record)


def forget_journal(labels: Path) -> None:
    """Remove the journal of a label file, once all that needs the labels is finished."""
    journal_beside(labels, "").path.unlink(missing_ok=True)


def _scores(lines: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    for line in lines:
        try:
            image_id, found = json.loads(line)
            scores = np.array(found, np.float32)
            if not isinstance(image_id, str) or scores.ndim != 1:
                return
            yield image_id, scores
        except (ValueError, TypeError, OverflowError, RecursionError):  # damaged: what follows is made again
            return


def _line(image_id: str, scores: np.ndarray) -> str:
    return f"{json.dumps([image_id, scores.tolist()])}\n"
