"""The loop of scripts/tag_images.py and of `--labels clip`: images -> the classes that CLIP sees in them (TagCLIP).

The label file is the COCO split format: `id 45 49 50`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from clip.image import prepare_image
from clip.load import Clip
from common.errors import UserError
from common.files import write_text
from common.images import read_image
from common.outcome import Outcome
from common.parallel import ordered_map
from common.provenance import record_text, source_of
from dataset.spec import DatasetSpec, Sample
from dataset.voc_layout import find_image
from pipeline.files.tag_journal import Entry, Journal
from pipeline.methods.method import TextSet
from pipeline.methods.tagclip import TagSettings, check_settings, class_scores, encode_words
from pipeline.steps.tag_regions import choose_labels


@dataclass(frozen=True)
class TagWork:
    """What is the same for all images of a run.

    record  all that tags depend on beside the images themselves; one line of JSON
    """

    clip: Clip
    text: TextSet
    settings: TagSettings
    record: str


def set_up(clip: Clip, spec: DatasetSpec, images: Path, settings: TagSettings) -> TagWork:
    """Encode the prompts. `images` is the images' folder. Raises UserError for settings that do not fit the model."""
    check_settings(clip, settings)
    record = {
        "model": clip.describe(),
        "images": str(images.resolve()),
        "names": spec.words(),
        "settings": asdict(settings),
    }
    return TagWork(clip, encode_words(clip, spec, settings), settings, record_text(record))


@dataclass(frozen=True)
class Tags:
    """What became of one image: its scores (K,) float32 and labels (0-based, ascending), or why there are none.

    source  the image's identity (common/provenance.py)
    kept    whether an earlier run made the scores
    """

    sample: Sample
    scores: np.ndarray | None = None
    source: str = ""
    reason: str = ""
    kept: bool = False

    @property
    def id(self) -> str:
        return self.sample.id

    @property
    def labels(self) -> tuple[int, ...]:
        return self.sample.labels

    @property
    def outcome(self) -> Outcome:
        if self.scores is None:
            return Outcome(self.id, "failed", self.reason)
        return Outcome(self.id, "kept" if self.kept else "made")


def tag_samples(
    work: TagWork, samples: Sequence[Sample], journal: Journal | None = None, threads: int = 2
) -> Iterator[Tags]:
    """The tags of every image, in order; the labels that the samples carry are not looked at.

    journal  keeps the scores of finished images; those of an image that is still the same are taken from there
    An image that cannot be read gets a reason instead.
    """
    finished = journal.read() if journal else {}

    def read(sample: Sample) -> tuple[str, torch.Tensor | np.ndarray | str]:
        """The image's identity, with its pixels, its scores of an earlier run, or what is wrong with it."""
        try:
            source = source_of(sample.image)
            known = finished.get(sample.id)
            if known is not None and known.source == source:
                return source, known.scores
            return source, prepare_image(read_image(sample.image), work.clip.patch_size)
        except UserError as error:
            return "", str(error)

    def score(pixels: torch.Tensor) -> np.ndarray:
        return class_scores(work.clip, pixels.to(work.clip.device), work.text, work.settings)

    def tags() -> Iterator[Tags]:
        for sample, (source, found) in zip(samples, ordered_map(read, samples, threads)):
            if isinstance(found, str):
                yield Tags(sample, reason=found)
                continue
            kept = isinstance(found, np.ndarray)
            scores = found if isinstance(found, np.ndarray) else score(found)
            labelled = replace(sample, labels=choose_labels(scores, work.settings.label_share))
            yield Tags(labelled, scores, source, kept=kept)

    if journal is None:
        yield from tags()
        return
    with journal.adding(finished) as add:
        for one in tags():
            if one.scores is not None and not one.kept:
                add(one.id, Entry(one.source, one.scores))
            yield one


def unlabelled(folder: Path, ids: Iterable[str]) -> tuple[list[Sample], list[tuple[str, str]]]:
    """The images of the ids as samples without labels, and (id, reason) of those that are missing.

    So are those whose id no label file could hold: found now, they do not cost the others their tags later.
    """
    samples, failures = [], []
    for image_id in ids:
        try:
            quoted(image_id)
            samples.append(Sample(image_id, find_image(folder, image_id), ()))
        except UserError as error:
            failures.append((image_id, str(error)))
    return samples, failures


def write_labels(path: Path, tagged: Iterable[Tags | Sample]) -> None:
    """Write `id 45 49 50` a line (0-based class indices): the COCO split format that the CAM stage reads.

    Ids that are more than a plain word stand in double quotes, as in dataset/label_text.py.
    """
    lines = [" ".join([quoted(image.id), *map(str, image.labels)]) for image in tagged]
    write_text(path, "".join(f"{line}\n" for line in lines))


def quoted(image_id: str) -> str:
    """The id as the label file holds it. Raises UserError for one that cannot be held."""
    if any(sign in image_id for sign in '"\r\n'):
        raise UserError(f"{image_id!r}: a name that a label file cannot hold; rename the image")
    return image_id if re.fullmatch(r"[^\s#:][^\s:]*", image_id) else f'"{image_id}"'
