"""MaskCLIP+ put together: which labels are hidden, what CLIP knows of the classes, who finds the labels."""

from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn

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
from pipeline.stages.cams import text_set
from segmentor.augment import HIDDEN
from segmentor.label_sources import Filled, Finder, OwnLabels, Source, masks
from segmentor.prediction import DTYPES
from segmentor.settings import Settings, Words
from segmentor.teacher import Teacher

ALL, UNSEEN = "all", "unseen"


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
    classes = _classes(spec, unlabelled or ALL)
    return tuple(sorted({index + int(spec.has_background) for index in classes}))


def _classes(spec: DatasetSpec, unlabelled: str) -> list[int]:
    if unlabelled == ALL:
        return list(range(len(spec.classes)))
    if unlabelled == UNSEEN:
        if not spec.unseen:
            told = "pass all, or the names of classes as a,b"
            raise UserError(f"--unlabelled unseen: {spec.name} has no split into seen and unseen classes; {told}")
        return list(spec.unseen)
    known, found = name_indices(spec), []
    for name in map(str.strip, unlabelled.split(",")):
        if name not in known:
            raise UserError(f"--unlabelled {name}: no class of {spec.name}; {hint(name, spec.classes)}")
        found.append(known[name])
    return found


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


# --- who finds the labels -------------------------------------------------------------------------


def source_for(settings: Settings, knowledge: Knowledge | None, network: nn.Module) -> Source:
    """Where the labels of a run come from: the masks, and for what is hidden in them the teacher and the network."""
    asked, finders = settings.teaching, dict[str, Finder]()
    if asked.teacher:
        assert knowledge is not None
        finders["teacher"] = teacher_for(settings, knowledge)
    if asked.own_from:
        finders["network"] = OwnLabels(network, asked.hidden, DTYPES[settings.precision])
    return Filled(asked, finders) if finders else masks


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
