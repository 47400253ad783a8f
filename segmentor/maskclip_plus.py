"""MaskCLIP+ (Zhou et al., 2022, section 3.3): a frozen MaskCLIP labels crops while a network learns from them.

Which labels are hidden, what CLIP knows of the classes, and who finds the labels of a step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip.load import Clip, load_clip
from clip.templates import choose_templates
from clip.text import unknown_words
from common.errors import UserError
from dataset.names import hint, name_indices
from dataset.spec import DatasetSpec
from pipeline.files.cam_file import spec_fingerprint
from pipeline.methods.maskclip import MaskClipSettings
from pipeline.methods.maskclip_v import MaskClipVSettings
from pipeline.methods.method import CamSettings, TextSet
from pipeline.methods.table import METHODS
from pipeline.stages.cams import text_set
from segmentor.augment import HIDDEN, IGNORE, NORMALISATIONS
from segmentor.networks import enlarged
from segmentor.prediction import DTYPES
from segmentor.samples import Batch
from segmentor.settings import Settings, Teaching, Words

ALL, UNSEEN = "all", "unseen"

# A batch on its device and the 0-based iteration to (B, S, S) int64 labels, 255 to ignore. No gradients come of it.
Source = Callable[[Batch, int], Tensor]
Finder = Callable[[Tensor], Tensor]  # (B, 3, S, S) normalised images to (B, S, S) int64 labels, 255 to ignore


def hidden_labels(spec: DatasetSpec, unlabelled: str | None, with_masks: bool) -> tuple[int, ...]:
    """The mask values that are hidden, ascending.

    unlabelled  classes as `--unlabelled` names them, or None for none
    with_masks  without masks all labels are, the background's too
    Raises UserError for a class that there is not, and where there is no split into seen and unseen ones.
    """
    if with_masks and unlabelled is None:
        return ()
    if spec.num_labels > HIDDEN:
        raise UserError(f"--unlabelled: {spec.name} has {spec.num_labels} labels; labels of {HIDDEN} can be hidden")
    if not with_masks:
        return tuple(range(spec.num_labels))
    if unlabelled == UNSEEN and not spec.unseen:
        remedy = "pass all, or the names of classes as a,b"
        raise UserError(f"--unlabelled unseen: {spec.name} has no split into seen and unseen classes; {remedy}")
    if unlabelled in (ALL, UNSEEN):
        classes = set(range(len(spec.classes)) if unlabelled == ALL else spec.unseen)
    else:
        known, classes = name_indices(spec), set()
        for name in map(str.strip, str(unlabelled).split(",")):
            if name not in known:
                raise UserError(f"--unlabelled {name}: no class of {spec.name}; {hint(name, spec.classes)}")
            classes.add(known[name])
    return tuple(sorted(index + int(spec.has_background) for index in classes))


# --- what CLIP knows ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Knowledge:
    """A CLIP, its text embeddings of a data set's classes and background prompts, and what they depend on."""

    clip: Clip
    text: TextSet
    words: Words

    @property
    def width(self) -> int:
        """D of the text embeddings."""
        return self.text.foreground.shape[1]


def ask_clip(
    spec: DatasetSpec, model: str, pretrained: str | None, device: torch.device, activation: str, templates: str
) -> Knowledge:
    """Load a CLIP and encode the classes as MaskCLIP asks for them; arguments as of load_clip and choose_templates."""
    try:
        clip = load_clip(model, pretrained, device, activation, resnets=True)
    except UserError as error:  # which speaks of the options of generate_cams.py
        told = str(error).replace("--pretrained", "--clip_pretrained").replace("--model", "--clip")
        raise UserError(told) from error
    chosen = choose_templates(clip, templates)
    how = CamSettings(method="maskclip", options=MaskClipSettings(templates=chosen))
    text = text_set(clip, spec, how)
    return Knowledge(clip, text, Words(clip.fingerprint, clip.activation, spec_fingerprint(spec), chosen))


def never_seen(knowledge: Knowledge, spec: DatasetSpec) -> list[str]:
    """Words among the classes' and background's that the model was not trained with."""
    names = chain.from_iterable(spec.plain_prompts or spec.prompts)
    return unknown_words(knowledge.clip, [*names, *spec.background_prompts])


# --- the teacher -------------------------------------------------------------------------


@dataclass(frozen=True)
class Teacher:
    """(B, 3, H, W) images as the network gets them to (B, H, W) int64 labels: the best of those that it may give.

    text           embeddings of the classes that it may give, and, where it may give the background, its prompts
    labels         mask values of these classes
    background     whether it may give the background, label 0; what the classes leave is its score then
    normalisation  of the images; one of NORMALISATIONS
    confidence     pixels whose highest probability is lower get 255
    padding        whether it sees the crops with their padding, as in the published code; else that gets 255
    """

    clip: Clip
    text: TextSet
    labels: Sequence[int]
    settings: CamSettings
    background: bool
    normalisation: str
    confidence: float = 0.0
    padding: bool = False

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        if self.padding:
            return self._labels(images)
        found = torch.full((len(images), *images.shape[-2:]), IGNORE, device=images.device)
        for (height, width), members in by_size(images).items():
            found[members, :height, :width] = self._labels(images[members, :, :height, :width])
        return found

    def _labels(self, images: Tensor) -> Tensor:
        score = METHODS[self.settings.method].scores
        assert score is not None, f"{self.settings.method} is not dense"
        scores = score(self.clip, self._prepared(images), self.text, self.settings)
        return torch.stack([self._labels_of(each, images) for each in scores])

    def _prepared(self, images: Tensor) -> Tensor:
        """Normalised as the method wants them, with whole patches."""
        how = METHODS[self.settings.method].preparation(self.clip, self.settings.options)
        images = renormalised(images, self.normalisation, how.normalisation)
        rows, columns = (-side % self.clip.patch_size for side in images.shape[-2:])
        if not rows and not columns:
            return images
        if how.fit == "pad":
            return F.pad(images, (0, columns, 0, rows))
        size = (images.shape[-2] + rows, images.shape[-1] + columns)
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False)

    def _labels_of(self, scores: Tensor, images: Tensor) -> Tensor:
        """(k, h, w) scores of one of the images to (H, W) labels. One at a time: there may be many classes."""
        maps = F.interpolate(scores[None], size=images.shape[-2:], mode="bilinear", align_corners=False)[0]
        kind = METHODS[self.settings.method].kind(self.settings.options)
        if self.background:
            rest = torch.zeros_like(maps[0]) if kind == "logit" else (1 - maps.sum(dim=0)).clamp(min=0)
            maps = torch.cat([rest[None], maps])
        values = torch.tensor([0, *self.labels] if self.background else list(self.labels), device=maps.device)
        best, places = maps.max(dim=0)
        found = values[places]
        if not self.confidence:
            return found
        share = (best - maps.logsumexp(dim=0)).exp() if kind == "logit" else best / maps.sum(dim=0)
        return found.masked_fill(share < self.confidence, IGNORE)


def by_size(images: Tensor) -> dict[tuple[int, int], list[int]]:
    """Which of (B, 3, H, W) normalised images have how many rows and columns that are no padding; none has no entry.

    Padding is 0 in all channels, which no pixel is: the means of NORMALISATIONS are no whole numbers.
    """
    inside = (images != 0).any(dim=1)
    sizes = torch.stack([inside.any(dim=2).sum(dim=1), inside.any(dim=1).sum(dim=1)], dim=1)
    found: dict[tuple[int, int], list[int]] = {}
    for index, (height, width) in enumerate(sizes.tolist()):
        if height and width:
            found.setdefault((height, width), []).append(index)
    return found


def renormalised(images: Tensor, given: str, wanted: str) -> Tensor:
    """(B, 3, H, W) of one of NORMALISATIONS in another one; the same tensor where they are the same."""
    if given == wanted:
        return images
    (mean, deviation), (other_mean, other_deviation) = (
        [images.new_tensor(values)[:, None, None] for values in NORMALISATIONS[name]] for name in (given, wanted)
    )
    return (images * deviation + (mean - other_mean)) / other_deviation


# --- where the labels of a step come from -----------------------------------------------------------


def masks(batch: Batch, iteration: int) -> Tensor:
    """The labels of the mask files; hidden ones are not trained on."""
    return batch.labels.masked_fill(batch.labels == HIDDEN, IGNORE)


def filled(teaching: Teaching, finders: Mapping[str, Finder]) -> Source:
    """The labels of the mask files, the hidden ones found by `finders`, by the names of Teaching.finder."""

    def source(batch: Batch, iteration: int) -> Tensor:
        who = teaching.finder(iteration + 1)
        if not who:
            return masks(batch, iteration)
        return torch.where(batch.labels == HIDDEN, finders[who](batch.images), batch.labels)

    return source


def own_labels(network: nn.Module, labels: Sequence[int], dtype: torch.dtype = torch.float32) -> Finder:
    """A network's own labels of what it is about to learn from: the best of `labels`, which are mask values.

    It looks at the images in evaluation mode, so that its normalisation layers do not count them twice.
    """

    @torch.no_grad()
    def finder(images: Tensor) -> Tensor:
        training = network.training
        network.eval()
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            scores = network(images)
        network.train(training)
        values = torch.tensor(labels, device=images.device)
        return values[enlarged(scores[:, values], images).argmax(dim=1)]

    return finder


def source_for(settings: Settings, knowledge: Knowledge | None, network: nn.Module) -> Source:
    """Where the labels of a run come from: the masks, and for what is hidden in them the teacher and the network."""
    asked, finders = settings.teaching, dict[str, Finder]()
    if asked.teacher:
        assert knowledge is not None
        finders["teacher"] = teacher_for(settings, knowledge)
    if asked.own_from:
        finders["network"] = own_labels(network, asked.hidden, DTYPES[settings.precision])
    return filled(asked, finders) if finders else masks


def teacher_for(settings: Settings, knowledge: Knowledge) -> Teacher:
    """The teacher of a run: it chooses among the hidden labels only."""
    asked, first = settings.teaching, int(settings.background)
    background = bool(first) and 0 in asked.hidden
    classes = [label - first for label in asked.hidden if label >= first]
    prompts, templates = knowledge.text.background, settings.words.templates
    how: MaskClipSettings | MaskClipVSettings = MaskClipVSettings(templates=templates)
    if asked.teacher == "maskclip":
        how = MaskClipSettings(asked.key_smoothing, asked.smoothing_norm, asked.denoising, templates=templates)
    return Teacher(
        knowledge.clip,
        TextSet(knowledge.text.foreground[classes], prompts if background else prompts[:0]),
        [label + first for label in classes],
        CamSettings(method=asked.teacher, options=how),
        background,
        settings.views.normalisation,
        asked.confidence,
        asked.padding,
    )
