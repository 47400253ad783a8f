"""The loop of scripts/tag_images.py and of `--labels clip`: images -> the classes that CLIP sees in them (TagCLIP).

The label file is the COCO split format: `id 45 49 50`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from clip.image import prepare_image
from clip.load import Clip
from common.errors import UserError
from common.files import write_text
from common.images import note_on, read_image
from common.outcome import Outcome
from common.parallel import ordered_map
from common.provenance import record_text, source_of
from dataset.ids import is_picture
from dataset.spec import DatasetSpec, Sample
from dataset.voc_layout import find_image
from pipeline.files.tag_journal import Entry, Journal
from pipeline.methods.method import TextSet
from pipeline.methods.tagclip import TagSettings, check_settings, class_scores, encode_words
from pipeline.steps.tag_regions import choose_labels


@dataclass(frozen=True)
class TagWork:
    """A tagging with its model loaded.

    record  all that tags depend on but the images, as one line of JSON
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
    """The result of one image.

    sample  with its labels, 0-based and ascending
    scores  (K,) float32; None where the image failed
    source  the image's identity (common/provenance.py)
    reason  why there are no scores
    note    what people should know of the photo
    kept    whether an earlier run made the scores
    """

    sample: Sample
    scores: np.ndarray | None = None
    source: str = ""
    reason: str = ""
    kept: bool = False
    note: str = ""

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
        return Outcome(self.id, "kept" if self.kept else "made", note=self.note)


def tag_samples(
    work: TagWork, samples: Sequence[Sample], journal: Journal | None = None, threads: int = 2
) -> Iterator[Tags]:
    """The tags of every image, in order; the labels of the samples are ignored.

    journal  keeps the scores of finished images; those of an image that is still the same are taken from there
    An image that cannot be read gets a reason instead.
    """
    finished = journal.read() if journal else {}

    def read(sample: Sample) -> Tags | tuple[str, torch.Tensor, str]:
        """The result, where it needs no model, or the image's identity, its pixels, and a note on it."""
        try:
            source = source_of(sample.image)
            entry = finished.get(sample.id)
            if entry is not None and entry.source == source:
                return Tags(sample, entry.scores, source, kept=True)
            image = read_image(sample.image)
            return source, prepare_image(image, work.clip.patch_size), note_on(image)
        except UserError as error:
            return Tags(sample, reason=str(error))

    with journal.adding(finished) if journal else nullcontext() as add:
        for sample, result in zip(samples, ordered_map(read, samples, threads)):
            if not isinstance(result, Tags):
                source, pixels, note = result
                scores = class_scores(work.clip, pixels.to(work.clip.device), work.text, work.settings)
                result = Tags(sample, scores, source, note=note)
                if add is not None:
                    add(sample.id, Entry(source, scores))
            if result.scores is not None:
                labels = choose_labels(result.scores, work.settings.label_share)
                result = replace(result, sample=replace(sample, labels=labels))
            yield result


def unlabelled(folder: Path, ids: Iterable[str]) -> tuple[list[Sample], list[tuple[str, str]]]:
    """The images of the ids as samples without labels, and (id, reason) of those that fail.

    Images fail that are missing, or whose id a label file cannot hold: later that would cost all images their tags.
    """
    samples, failures = [], []
    for image_id in ids:
        try:
            sample = Sample(image_id, find_image(folder, image_id), ())
            quoted(sample)
            samples.append(sample)
        except UserError as error:
            failures.append((image_id, str(error)))
    return samples, failures


def write_labels(path: Path, tagged: Iterable[Tags | Sample]) -> None:
    """Write `id 45 49 50` a line (0-based class indices): the COCO split format that the CAM stage reads."""
    samples = [image.sample if isinstance(image, Tags) else image for image in tagged]
    lines = [" ".join([quoted(sample), *map(str, sample.labels)]) for sample in samples]
    write_text(path, "".join(f"{line}\n" for line in lines))


def quoted(sample: Sample) -> str:
    """The id as the label file holds it: in double quotes where it is more than a plain word.

    An id that looks like a file name, as that of `photo.jpg.png`, stands with its suffix. Raises UserError for one that
    a label file cannot hold.
    """
    name = f"{sample.id}{sample.image.suffix}" if is_picture(sample.id) else sample.id
    if any(sign in name for sign in '"\r\n'):
        raise UserError(f"{name!r}: a name that a label file cannot hold; rename the image")
    return name if re.fullmatch(r"[^\s#:<{\[][^\s:]*", name) else f'"{name}"'
