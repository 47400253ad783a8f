"""SAM 3 (Carion et al., 2025) asked for the names of the classes: a map of where it sees each. Needs no labels.

Takes a SAM 3 of transformers in place of a CLIP. The background is what the best class leaves (docs/methods.md,
section 9.1). With labels of the images only these classes are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.arguments import option, positive
from pipeline.methods.method import CamSettings, Method, TextSet

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clip.image import Preparation
    from clip.load import Clip
    from clip.templates import Words
    from dataset.spec import DatasetSpec
    from pipeline.methods.method import MapPair
    from pipeline.steps.concepts import ConceptClip

KINDS = ("sam3", "sam3_video")
FILES = "config.json and model.safetensors of SAM 3"
LEAST = 1e-4  # of a probability; half precision can tell its logit


@dataclass(frozen=True)
class Sam3Settings:
    """SAM 3's own settings; their help says what they are."""

    presence: bool = option(
        False,
        "weigh each class by the network's opinion that the image shows it; for images without labels",
        flag="--sam3_presence",
    )
    at_once: int | None = option(
        None,
        "names that go through its decoder together; not given: 8 on a GPU, else 1",
        flag="--sam3_batch",
        type=positive,
        metavar="N",
    )


def maps(
    clip: ConceptClip, images: Tensor, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
) -> list[MapPair]:
    """B pairs of the same map twice, there is no affinity: log(class / background) (k_i, h, w)."""
    return [
        (one, one)
        for image, present in zip(images, labels)
        for one in [class_logits(clip, image[None], present, text, settings)]
    ]


def class_logits(
    clip: ConceptClip, image: Tensor, present: Sequence[int], text: TextSet, settings: CamSettings
) -> Tensor:
    """(k, h, w) of an image (1, 3, side, side): a class has the best of its names, the background the rest of 1."""
    import torch

    from pipeline.steps.concepts import presence_and_maps

    options = settings.options or Sam3Settings()
    rows, owners = text.words_of(present)
    if not len(rows):
        return torch.zeros(0, 1, 1, device=image.device)
    half = settings.precision != "float32"
    with torch.no_grad(), torch.autocast(image.device.type, getattr(torch, settings.precision), enabled=half):
        at_once = options.at_once or (1 if clip.device.type == "cpu" else 8)
        there, places = presence_and_maps(clip, image, rows, at_once)
    found = places[0] * there[0, :, None, None] if options.presence else places[0]
    of_name = torch.tensor(owners, device=found.device)
    classes = torch.stack([found[of_name == number].amax(dim=0) for number in range(len(present))])
    classes = classes.clamp(LEAST, 1 - LEAST)
    return classes.log() - (1 - classes.amax(dim=0, keepdim=True)).log()


def complete(clip: Clip, spec: DatasetSpec, settings: Sam3Settings) -> Sam3Settings:
    return settings


def words(spec: DatasetSpec, settings: Sam3Settings) -> Words:
    """Bare names, each asked for by itself; the background has none."""
    from clip.templates import Words

    return Words(spec.plain_prompts or spec.prompts, ("{}",), unit=False, separate=True)


def preparation(clip: ConceptClip, settings: Any) -> Preparation:
    """Squares of the side that it was trained with."""
    from clip.image import Preparation

    return Preparation("square", (clip.side,), "half")


def load(source: Any, device: torch.device) -> Clip:
    """The network that a stage's ModelSource names. Raises UserError for anything else."""
    import hashlib
    from pathlib import Path

    from common.errors import UserError
    from pipeline.steps.concepts import ConceptClip, ConceptTexts
    from zsseg.proposals.hub import identity_of, load_pretrained

    if source.prompts is not None:
        raise UserError("--prompts: learned for a CLIP, which --method sam3 does not use; leave it out")
    name = source.model
    if not name:
        raise UserError(
            f"--model is needed with --method sam3: a folder with {FILES}, or a name of the Hugging Face hub"
        )
    if source.pretrained is not None:
        raise UserError(
            f"--model {name} --pretrained {source.pretrained}: no SAM 3; give --model a folder with {FILES}"
        )

    def made(name: str, local_files_only: bool) -> Any:
        import torch
        from transformers import Sam3Model

        options: Any = {"local_files_only": local_files_only, "use_safetensors": True, "dtype": torch.float32}
        read: Any = Sam3Model.from_pretrained
        network, found = read(name, output_loading_info=True, **options)
        if missing := sorted(found["missing_keys"]):
            raise UserError(f"--model {name}: weight {missing[0]} is missing ({len(missing)} in all); a damaged folder")
        return network.to(device).eval().requires_grad_(False)

    network = load_pretrained(name, made, "--model", KINDS, FILES)
    fingerprint = hashlib.sha256((identity_of(name) or name).encode()).hexdigest()[:16]
    texts: Any = ConceptTexts(network)
    return ConceptClip(network, texts, Path(name).name, "gelu", fingerprint)


METHOD = Method(
    maps,  # type: ignore[arg-type]  # its CLIP is what `load` gives
    Sam3Settings,
    complete,
    words,
    preparation,  # type: ignore[arg-type]
    kind=lambda settings: "logit",
    load=load,
    unlabelled=True,
)
