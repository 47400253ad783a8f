"""The loop of scripts/tag_images.py and of `--labels clip`: images -> the classes that CLIP sees in them (TagCLIP).

The label file is the COCO split format: `id 45 49 50`.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cli.console import progress
from clip.image import prepare_image
from clip.load import Clip
from clip.templates import MASKCLIP85, fill_templates, knows_templates
from clip.text import fill_template
from clip.text_cache import cached_prompts
from clip.vision import vision_forward
from common.errors import UserError
from common.files import write_text
from common.images import read_image
from common.outcome import Outcome
from common.parallel import ordered_map
from dataset.spec import DatasetSpec, Sample
from dataset.voc_layout import find_image
from pipeline.files.tag_journal import Journal
from pipeline.methods import tagclip
from pipeline.methods.table import TextSet
from pipeline.methods.tagclip import TagSettings
from pipeline.steps.affinity import box_mask
from pipeline.steps.tensors import min_max, to_numpy

TEMPLATES = ("auto", "dataset", "maskclip85")
PUBLISHED = TagSettings()
BARE_NAMES = ("voc12", "voc20", "coco14")  # TagCLIP's authors ask for these by class name, without CLIP-ES's synonyms


@dataclass(frozen=True)
class Tags:
    """What became of one image: its scores (K,) float32 and labels (0-based, ascending), or why there are none.

    kept  whether an earlier run made the scores
    """

    id: str
    labels: tuple[int, ...] = ()
    scores: np.ndarray | None = None
    reason: str = ""
    kept: bool = False

    @property
    def outcome(self) -> Outcome:
        if self.scores is None:
            return Outcome(self.id, "failed", self.reason)
        return Outcome(self.id, "kept" if self.kept else "made")


def choose_templates(clip: Clip, asked: str) -> str:
    """ "auto" to "maskclip85", or to "dataset" for a model that never saw the words of those templates."""
    if asked != "auto":
        return asked
    return "maskclip85" if knows_templates(clip, MASKCLIP85) else "dataset"


def tag_text(clip: Clip, spec: DatasetSpec, templates: str = "auto") -> TextSet:
    """Text embeddings for tagging.

    templates  "maskclip85" as published, "dataset": the data set's one template and its prompts, or "auto"
    """
    bare = choose_templates(clip, templates) == "maskclip85" and spec.name in BARE_NAMES
    groups = [*([(name,) for name in spec.classes] if bare else spec.prompts), *((p,) for p in spec.background_prompts)]
    if choose_templates(clip, templates) == "maskclip85":
        prompts = fill_templates(MASKCLIP85, groups)
    else:
        prompts = fill_template(spec.template, groups)
    embeddings = cached_prompts(clip, prompts)
    return TextSet(embeddings[: len(spec.classes)], embeddings[len(spec.classes) :])


def tag_samples(
    clip: Clip,
    spec: DatasetSpec,
    samples: Sequence[Sample],
    settings: TagSettings = PUBLISHED,
    templates: str = "auto",
    threads: int = 2,
) -> Iterator[Tags]:
    """The tags of every image, in order; the labels that the samples carry are not looked at.

    An image that cannot be read gets a reason instead. Raises UserError for settings that do not fit the model.
    """
    check_settings(clip, settings)
    text = tag_text(clip, spec, templates)
    for sample, image in ordered_map(lambda sample: (sample, _read(clip, sample)), samples, threads):
        if isinstance(image, str):
            yield Tags(sample.id, reason=image)
        else:
            scores = class_scores(clip, image.to(clip.device), text, settings)
            yield Tags(sample.id, tagclip.choose_labels(scores, settings.label_share), scores)


def _read(clip: Clip, sample: Sample) -> torch.Tensor | str:
    try:
        return prepare_image(read_image(sample.image), clip.patch_size)
    except UserError as error:
        return str(error)


def check_settings(clip: Clip, settings: TagSettings) -> None:
    """Raise UserError for blocks that the model does not have."""
    count = len(clip.visual.transformer.resblocks)
    wrong = [block for block in settings.blocks_of(count) if not 0 <= block < count]
    if wrong:
        raise UserError(f"--tag_blocks {wrong[0]}: this CLIP has blocks 0 to {count - 1}")
    if not 1 <= settings.votes_of(count) <= count:
        raise UserError(f"--tag_votes {settings.votes}: this CLIP has {count} blocks that vote; expected 1 to {count}")


def class_scores(clip: Clip, image: torch.Tensor, text: TextSet, settings: TagSettings) -> np.ndarray:
    """TagCLIP on one image (3, h*p, w*p): the score of every class, (K,) float32 in [0, 1]."""
    words = torch.cat([text.foreground, text.background])
    features = vision_forward(clip.visual, image[None])
    coarse = tagclip.patch_probabilities(clip.visual, features.last_input, words, clip.logit_scale)[0]
    affinity = tagclip.voted_attention(torch.cat(features.attention), settings)
    scores = refined_scores(affinity, coarse[:, : len(text.foreground)], features.grid)  # (N, K)
    looks = settings.crop_weight > 0
    again = second_look(clip, image, scores, features.grid, words, settings) if looks else {}
    return tagclip.fused(to_numpy(scores.amax(dim=0)).tolist(), again, settings.crop_weight)


def refined_scores(affinity: torch.Tensor, coarse: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Coarse scores S (N, K) to S2 (N, K): spread once to find each class's boxes, then from S again inside them.

    Boxes stand at the mean of a class's normalised scores, by the rule of the affinity step. (TagCLIP looks for
    outer contours only; the boxes of inner ones lie inside theirs, so the union is the same.)
    """
    heats = _heats(tagclip.spread(affinity, coarse), grid)
    masks = np.stack([box_mask(heat, float(heat.mean())) for heat in to_numpy(heats)])  # (K, h, w)
    return tagclip.spread(affinity, coarse, torch.from_numpy(masks).flatten(1).to(coarse.device))


def _heats(scores: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    return min_max(scores.T.reshape(-1, *grid))  # (N, K) -> (K, h, w)


def second_look(
    clip: Clip,
    image: torch.Tensor,
    scores: torch.Tensor,
    grid: tuple[int, int],
    words: torch.Tensor,
    settings: TagSettings,
) -> dict[int, float]:
    """Class-wise re-identification: the probability q of each likely class in a crop of its own region."""
    side = round((len(clip.visual.positional_embedding) - 1) ** 0.5)
    heats = _heats(scores, grid)
    likely = tagclip.candidates(scores, settings.candidate_share)
    found = {index: tagclip.region_of(heats[index], settings.region_level, side) for index in likely}
    regions = {index: region for index, region in found.items() if region is not None}
    if not regions:
        return {}
    crops = torch.stack([tagclip.crop(image, region, clip.patch_size) for region in regions.values()])
    inside = torch.stack([region.inside for region in regions.values()])
    probabilities = tagclip.crop_probabilities(clip.visual, crops, inside, words, clip.logit_scale)
    return {index: float(row[index]) for index, row in zip(regions, probabilities)}


# --- before and after -----------------------------------------------------------------------------


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


def tag_all(
    clip: Clip,
    spec: DatasetSpec,
    samples: Sequence[Sample],
    settings: TagSettings = PUBLISHED,
    templates: str = "auto",
    journal: Journal | None = None,
) -> Iterator[Tags]:
    """Like `tag_samples`; what the journal holds is taken from there, the others are noted in it."""
    finished = journal.read() if journal else {}
    todo = [sample for sample in samples if sample.id not in finished]
    made = tag_samples(clip, spec, todo, settings, templates)
    made = journal.noting(finished, made) if journal else made
    for sample in samples:
        if sample.id in finished:
            scores = finished[sample.id]
            yield Tags(sample.id, tagclip.choose_labels(scores, settings.label_share), scores, kept=True)
        else:
            yield next(made)


def journal_record(clip: Clip, spec: DatasetSpec, images: Path, settings: TagSettings, templates: str) -> str:
    """All that tags depend on, beside the images themselves; one line."""
    made_by = {
        "model": clip.describe(),
        "images": str(images.resolve()),
        "names": asdict(spec),
        "templates": templates,
        "settings": asdict(settings),
    }
    return json.dumps(made_by, sort_keys=True)


def shown(tags: Iterator[Tags], total: int) -> Iterator[Tags]:
    """The same tags, with a progress bar on a terminal."""
    passing: list[Tags] = []

    def outcomes() -> Iterator[Outcome]:
        for tag in tags:
            passing[:] = [tag]
            yield tag.outcome

    for _ in progress(outcomes(), total, "tags"):
        yield passing[0]


def label_with_clip(
    clip: Clip,
    spec: DatasetSpec,
    folder: Path,
    ids: Iterable[str],
    settings: TagSettings = PUBLISHED,
    templates: str = "auto",
    journal: Journal | None = None,
) -> tuple[list[Sample], list[tuple[str, str]]]:
    """What `--labels clip` means: the images of the ids with CLIP's labels, and (id, reason) of those without."""
    samples, failures = unlabelled(folder, ids)
    tags = list(shown(tag_all(clip, spec, samples, settings, templates, journal), len(samples)))
    made = [replace(sample, labels=tag.labels) for sample, tag in zip(samples, tags) if tag.scores is not None]
    return made, failures + [(tag.id, tag.reason) for tag in tags if tag.scores is None]


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
