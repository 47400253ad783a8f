"""MaskCLIP+ (Zhou et al., 2022, section 3.3): a frozen MaskCLIP labels crops while a network learns from them.

Which labels are hidden, the CLIP that teaches, and the labels of each step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip.load import Clip, load_clip
from clip.resnet import is_resnet
from clip.templates import choose_templates
from common.errors import UserError
from dataset.names import hint, name_indices, plain_name
from dataset.spec import DatasetSpec
from pipeline.files.cam_file import spec_fingerprint
from pipeline.methods.maskclip import MaskClipSettings
from pipeline.methods.maskclip_v import MaskClipVSettings
from pipeline.methods.method import CamSettings, TextSet
from pipeline.methods.table import METHODS
from pipeline.stages.cams import text_set
from pipeline.steps.pamr import DILATIONS, pamr
from segmentor.augment import HIDDEN, IGNORE, NORMALISATIONS
from segmentor.networks import enlarged
from segmentor.prediction import DTYPES
from segmentor.samples import Batch
from segmentor.settings import ClipIdentity, Settings, Teaching

ALL, UNSEEN = "all", "unseen"
PAMR_CELL = 2  # pixels a side for one value of the teacher's

# A batch on its device and the 0-based iteration to (B, S, S) int64 labels, 255 to ignore. No gradients come of it.
Source = Callable[[Batch, int], Tensor]
Finder = Callable[[Tensor], Tensor]  # (B, 3, S, S) normalised images to (B, S, S) int64 labels, 255 to ignore


def hidden_labels(spec: DatasetSpec, unlabelled: str | None, with_masks: bool) -> tuple[int, ...]:
    """The mask values that are hidden, ascending.

    unlabelled  classes as `--unlabelled` names them, or None for none
    with_masks  without masks all labels are, the background's too
    Raises UserError for an unknown class, and for "unseen" where the data set has no such split.
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
        for name in map(plain_name, str(unlabelled).split(",")):
            if name not in known:
                raise UserError(f"--unlabelled {name}: no class of {spec.name}; {hint(name, spec.classes)}")
            classes.add(known[name])
    return tuple(sorted(index + int(spec.has_background) for index in classes))


@dataclass(frozen=True)
class ClipText:
    """A CLIP, its text embeddings of a data set's classes and background prompts, and what they depend on."""

    clip: Clip
    text: TextSet
    words: ClipIdentity


def load_clip_text(
    spec: DatasetSpec,
    model: str,
    pretrained: str | None,
    device: torch.device,
    activation: str,
    templates: str,
    prompts: Path | None = None,
) -> ClipText:
    """Load a CLIP and encode the classes as MaskCLIP does; arguments as of load_clip and choose_templates."""
    try:
        clip = load_clip(model, pretrained, device, activation, resnets=True, prompts=prompts)
    except UserError as error:  # which speaks of the options of generate_cams.py
        message = str(error).replace("--pretrained", "--clip_pretrained").replace("--model", "--clip")
        raise UserError(message) from error
    templates = choose_templates(clip, templates)
    text = text_set(clip, spec, CamSettings(method="maskclip", options=MaskClipSettings(templates=templates)))
    learned = clip.learned.fingerprint if clip.learned else None
    words = ClipIdentity(clip.fingerprint, clip.activation, spec_fingerprint(spec), templates, learned)
    return ClipText(clip, text, words)


@dataclass(frozen=True)
class Teacher:
    """(B, 3, H, W) images as the network gets them to (B, H, W) int64 labels: the best of those that it may give.

    text           embeddings of the classes that it may give, and, where it may give the background, its prompts
    labels         mask values of these classes
    background     whether it may give the background, label 0; what the classes leave is its score then
    normalisation  of the images; one of NORMALISATIONS
    confidence     pixels whose highest probability is lower get 255
    padding        whether it sees the crops with their padding, as in the published code; else that gets 255
    refined        whether the affinity of CLIP's own attention spreads its scores, as in generate_cams.py
    pamr           steps of PAMR of its probabilities, at every second pixel of a row and of a column
    """

    clip: Clip
    text: TextSet
    labels: Sequence[int]
    settings: CamSettings
    background: bool
    normalisation: str
    confidence: float = 0.0
    padding: bool = False
    refined: bool = False
    pamr: int = 0

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        if self.padding:
            return self._labels(images)
        labels = torch.full((len(images), *images.shape[-2:]), IGNORE, device=images.device)
        for (height, width), members in by_size(images).items():
            labels[members, :height, :width] = self._labels(images[members, :, :height, :width])
        return labels

    def _labels(self, images: Tensor) -> Tensor:
        method, options = METHODS[self.settings.method], self.settings.options
        values = torch.tensor([0, *self.labels] if self.background else list(self.labels), device=images.device)
        prepared = self._prepared(images)
        padded = method.preparation(self.clip, options).fit == "pad"
        size = prepared.shape[-2:] if padded else images.shape[-2:]
        results = []
        for scores, image in zip(self._scores(prepared), prepared):  # (k, h, w)
            shares = self._probabilities(scores, image, size, method.kind(options))
            best, places = shares[:, : images.shape[-2], : images.shape[-1]].max(dim=0)
            labels = values[places]
            results.append(labels.masked_fill(best < self.confidence, IGNORE) if self.confidence else labels)
        return torch.stack(results)

    def _probabilities(self, scores: Tensor, image: Tensor, size: Sequence[int], kind: str) -> Tensor:
        """Scores (k, h, w) to probabilities (k, *size), or (k+1, *size) with the background first."""
        inner = [-(-side // PAMR_CELL) for side in size] if self.pamr else size
        maps = F.interpolate(scores[None], size=inner, mode="bilinear", align_corners=False)
        if kind == "logit":
            maps = torch.cat([torch.zeros_like(maps[:, :1]), maps], dim=1) if self.background else maps
            shares = maps.softmax(dim=1)
        else:
            rest = (1 - maps.sum(dim=1, keepdim=True)).clamp(min=0)
            shares = torch.cat([rest, maps], dim=1) if self.background else maps / maps.sum(dim=1, keepdim=True)
        if self.pamr:
            small = F.interpolate(image[None], size=inner, mode="area")
            shares = pamr(shares, small, self.pamr, tuple(reach // PAMR_CELL for reach in DILATIONS))
            shares = F.interpolate(shares, size=size, mode="bilinear", align_corners=False)
        return shares[0]

    def _scores(self, images: Tensor) -> Sequence[Tensor]:
        """B times (k, h, w), refined or as they are."""
        method, classes = METHODS[self.settings.method], range(len(self.text.foreground))
        if self.refined:
            pairs = method.maps(self.clip, images, [classes] * len(images), self.text, self.settings)
            return [spread for _, spread in pairs]
        assert method.scores is not None, f"{self.settings.method} is not dense"
        return list(method.scores(self.clip, images, self.text, self.settings))

    def _prepared(self, images: Tensor) -> Tensor:
        """Normalised as the method wants them, with whole patches."""
        preparation = METHODS[self.settings.method].preparation(self.clip, self.settings.options)
        images = renormalised(images, self.normalisation, preparation.normalisation)
        rows, columns = (-side % self.clip.patch_size for side in images.shape[-2:])
        if not rows and not columns:
            return images
        if preparation.fit == "pad":
            return F.pad(images, (0, columns, 0, rows))
        size = (images.shape[-2] + rows, images.shape[-1] + columns)
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def by_size(images: Tensor) -> dict[tuple[int, int], list[int]]:
    """Indices of (B, 3, H, W) normalised images by (rows, columns) that are not padding; all padding: no entry.

    Padding is 0 in all channels, which no pixel is: the means of NORMALISATIONS are no whole numbers.
    """
    inside = (images != 0).any(dim=1)
    sizes = torch.stack([inside.any(dim=2).sum(dim=1), inside.any(dim=1).sum(dim=1)], dim=1)
    members: dict[tuple[int, int], list[int]] = {}
    for index, (height, width) in enumerate(sizes.tolist()):
        if height and width:
            members.setdefault((height, width), []).append(index)
    return members


def renormalised(images: Tensor, source: str, target: str) -> Tensor:
    """(B, 3, H, W) of one of NORMALISATIONS in another one; the same tensor where they are the same."""
    if source == target:
        return images
    (mean, deviation), (other_mean, other_deviation) = (
        [images.new_tensor(values)[:, None, None] for values in NORMALISATIONS[name]] for name in (source, target)
    )
    return (images * deviation + (mean - other_mean)) / other_deviation


def masks(batch: Batch, iteration: int) -> Tensor:
    """The labels of the mask files; hidden ones are not trained on."""
    return batch.labels.masked_fill(batch.labels == HIDDEN, IGNORE)


def fill_hidden(teaching: Teaching, finders: Mapping[str, Finder]) -> Source:
    """The labels of the mask files, the hidden ones found by `finders`, by the names of Teaching.finder."""

    def source(batch: Batch, iteration: int) -> Tensor:
        name = teaching.finder(iteration + 1)
        if not name:
            return masks(batch, iteration)
        return torch.where(batch.labels == HIDDEN, finders[name](batch.images), batch.labels)

    return source


def network_labels(network: nn.Module, labels: Sequence[int], dtype: torch.dtype = torch.float32) -> Finder:
    """The labels that a network predicts for its next batch: the best of `labels`, which are mask values.

    It predicts in evaluation mode, so that its normalisation layers do not count the images twice.
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


def source_for(settings: Settings, clip_text: ClipText | None, network: nn.Module) -> Source:
    """Where the labels of a run come from: the masks, and for what is hidden in them the teacher and the network."""
    teaching, finders = settings.teaching, dict[str, Finder]()
    if teaching.teacher:
        assert clip_text is not None
        finders["teacher"] = teacher_for(settings, clip_text)
    if teaching.own_from:
        finders["network"] = network_labels(network, teaching.hidden, DTYPES[settings.precision])
    return fill_hidden(teaching, finders) if finders else masks


def teacher_for(settings: Settings, clip_text: ClipText) -> Teacher:
    """The teacher of a run: it chooses among the hidden labels only.

    Raises UserError where it is to be refined by the attention of a ResNet, which has none.
    """
    if settings.teaching.refined and is_resnet(clip_text.clip.visual):
        raise UserError(
            "--teacher_refined: needs the attention of a vision transformer, and --clip is a ResNet; leave it out"
        )
    teaching, first = settings.teaching, int(settings.background)
    background = bool(first) and 0 in teaching.hidden
    classes = [label - first for label in teaching.hidden if label >= first]
    prompts, templates = clip_text.text.background, settings.words.templates
    options: MaskClipSettings | MaskClipVSettings = MaskClipVSettings(templates=templates)
    if teaching.teacher == "maskclip":
        smoothing = teaching.key_smoothing, teaching.smoothing_norm
        options = MaskClipSettings(*smoothing, teaching.denoising, templates=templates)
    return Teacher(
        clip_text.clip,
        TextSet(clip_text.text.foreground[classes], prompts if background else prompts[:0]),
        [label + first for label in classes],
        CamSettings(method=teaching.teacher, options=options),
        background,
        settings.views.normalisation,
        teaching.confidence,
        teaching.padding,
        teaching.refined,
        teaching.pamr,
    )
