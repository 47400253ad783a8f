"""Texts and learned prompts: embeddings, their layout, the training samples and steps."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.parity.parts import Distances, Part, Parts, Place, Row, Unequal
from clip.learned_prompts import PREFIX, SUFFIX, LearnedPrompts, encode_frames, frames, read_learned_prompts
from clip.load import Clip, load_clip
from clip.templates import Words
from clip.text_cache import cached_words
from clip.tokenizer import SimpleTokenizer
from common.images import read_image
from dataset.mask_png import read_mask
from dataset.spec import IGNORE_INDEX
from training.loop import step
from training.ranks import Ranks
from zsseg.training.prompt_regions import RegionBatch, balanced, box_of, cut, middle_view, network_input, resized
from zsseg.training.prompt_settings import PromptSettings
from zsseg.training.prompts import Job, PromptLearner, Report, objective, start, training_of
from zsseg.words import TEMPLATES

FEATURES = 6e-7  # the golden files' own spread


def names_of(place: Place) -> list[str]:
    """The classes, then the other names."""
    classes = json.loads((place.folder / "classes.json").read_text(encoding="utf-8"))
    return [*classes["names"], *classes["extra_names"]]


def texts(place: Place) -> Iterator[Row]:
    clip = load_clip(str(place.clip))
    wanted, names = np.load(place.folder / "text.npz"), names_of(place)
    groups = [(name,) for name in names]
    ours = {name: cached_words(clip, Words(groups, templates)).numpy() for name, templates in TEMPLATES.items()}
    learned = read_learned_prompts(place.folder / "prompt/prompt_checkpoint.pth", clip)
    ours["learned16"] = cached_words(replace(clip, learned=learned), Words(groups, ())).numpy()
    classes = len(json.loads((place.folder / "classes.json").read_text(encoding="utf-8"))["names"])
    nothing = torch.nn.functional.normalize(torch.from_numpy(wanted["non_object_raw"]), dim=1).numpy()
    ours["vild14_with_non_object"] = np.concatenate([ours["vild14"][:classes], nothing])
    for name, embeddings in ours.items():
        distances = Distances()
        distances.add(embeddings, wanted[name])
        yield distances.row(f"text embeddings, {name}", FEATURES)


def _around(clip: Clip, names: list[str], prefix: np.ndarray, suffix: np.ndarray) -> tuple[np.ndarray, ...]:
    """Embeddings to the end of the context (N, T, D), ends (N,), unit features (N, E)."""
    learned = LearnedPrompts.of(torch.from_numpy(prefix), torch.from_numpy(suffix))
    parts = frames(clip, names, len(prefix), len(suffix))
    filled = parts.filled(learned.prefix, learned.suffix)
    missing = clip.texts.context_length - filled.shape[1]
    padding = clip.texts.token_embeddings()[:1].expand(len(filled), missing, -1)
    features = encode_frames(clip, parts, learned.prefix, learned.suffix)
    embeddings = torch.cat([filled, padding.float()], dim=1)
    return embeddings.numpy(), parts.ends.numpy(), torch.nn.functional.normalize(features, dim=1).numpy()


@torch.no_grad()
def layout(place: Place) -> Iterator[Row]:
    clip, tokenizer = load_clip(str(place.clip)), SimpleTokenizer()
    wanted, context = np.load(place.folder / "prompt/layout.npz"), np.load(place.folder / "prompt/context.npz")
    checkpoint = read_learned_prompts(place.folder / "prompt/prompt_checkpoint.pth", clip)
    vectors = Distances()
    vectors.add(checkpoint.prefix.numpy(), context[PREFIX])
    yield vectors.row("learned vectors of the checkpoint", 0)
    names, tokens = [str(name) for name in wanted["names"]], Unequal()
    for name, row, length in zip(names, wanted["name_tokens"], wanted["name_lengths_with_sot_eot"]):
        ours = [tokenizer.sot_token_id, *tokenizer.encode(name), tokenizer.eot_token_id]
        tokens.add(ours, row[:length])
    yield tokens.row("tokens of the names", 0)
    none = np.zeros((0, clip.texts.width), np.float32)
    for shape in (name.removeprefix("embeddings_") for name in wanted.files if name.startswith("embeddings_")):
        before, after = shape.split("_")
        prefix = context[f"{PREFIX}_{before}" if f"{PREFIX}_{before}" in context.files else PREFIX]
        suffix = context[f"{SUFFIX}_{after}"] if int(after) else none
        embeddings, ends, features = _around(clip, names, prefix, suffix)
        distances, places, units = Distances(), Unequal(), Distances()
        distances.add(embeddings, wanted[f"embeddings_{shape}"])
        places.add(ends, wanted[f"eot_index_{shape}"])
        units.add(features, wanted[f"features_{shape}"])
        title = f"learned prompts of shape ({shape.replace('_', ', ')})"
        yield distances.row(f"{title}: embeddings before positions", FEATURES)
        yield places.row(f"{title}: places of the end", 0)
        yield units.row(f"{title}: features", FEATURES)


def _region(place: Place, region: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The photo (H, W, 3) uint8 and where a region's class is (H, W) bool."""
    image = np.asarray(read_image(place.photo(region["id"])))
    mask = read_mask(place.photos / "SegmentationClass" / f"{region['id']}.png")
    return image, mask == region["cls"] + 1


def train_crops(place: Place) -> Iterator[Row]:
    """Boxes of regions, the given parts of them at the size that CLIP sees."""
    wanted = np.load(place.folder / "prompt/train_batch.npz")
    boxes, classes, masks, images = Unequal(), Unequal(), Unequal(), Distances()
    regions = json.loads((place.folder / "prompt/train_crops.json").read_text(encoding="utf-8"))["regions"]
    for index, region in enumerate(regions):
        image, inside = _region(place, region)
        box = box_of(inside)
        boxes.add(box, region["mask_crop_xywh"])
        classes.add(region["cls"], wanted["classes"][index])
        part = tuple(region["random_crop_xywh"])
        picture, mask = resized(cut(cut(image, box), part), cut(cut(inside, box), part), wanted["masks"].shape[1:])
        images.add(picture, wanted["images"][index])
        masks.add(mask, wanted["masks"][index])
    yield boxes.row("boxes of regions", 0)
    yield classes.row("their classes", 0)
    yield masks.row("training crops: masks", 0)
    yield images.row("training crops: pixels", 0)


def _gradient(network: PromptLearner) -> np.ndarray:
    assert network.prefix_prompt.grad is not None
    return network.prefix_prompt.grad.numpy()


def train_steps(place: Place) -> Iterator[Row]:
    """SGD on one batch of regions by the training loop: losses, gradients, vectors."""
    folder = place.folder / "prompt"
    wanted, told = np.load(folder / "train_steps.npz"), json.loads((folder / "train_steps.json").read_text("utf-8"))
    given, crops = np.load(folder / "train_batch.npz"), json.loads((folder / "train_crops.json").read_text("utf-8"))
    inputs = network_input(torch.from_numpy(given["images"]), torch.from_numpy(given["masks"]))
    batch = RegionBatch(inputs, torch.from_numpy(given["classes"]))
    seen = Distances()
    seen.add(inputs[:, :, 4::8, 4::8].numpy(), wanted["input_every8"].astype(np.float32))
    yield seen.row("regions as CLIP sees them", 2e-3)  # stored in float16

    clip, first = load_clip(str(place.clip)), torch.from_numpy(np.load(folder / "context.npz")[PREFIX])
    names = tuple((name,) for name in crops["names"])
    settings = PromptSettings("voc20", names, len(batch.classes), clip.fingerprint, clip.activation)
    network = PromptLearner(clip, names, first.clone(), torch.zeros(0, clip.texts.width))
    logits, gradient = Distances(), Distances()
    logits.add(network(batch.images).detach().numpy(), wanted["logits"])
    objective(network, batch)["loss"].backward()
    gradient.add(_gradient(network), wanted["grad"], relative=True)
    yield logits.row("logits of regions before the first step", 8e-5)
    yield gradient.row("gradient of the vectors, relative", 2e-5)

    ranks = Ranks(torch.device("cpu"))
    job = Job(settings, (), {}, 0, 0, Path())
    training, state = training_of(job, ranks, Report()), start(job, network, ranks)
    losses, norms, rates, moved = Distances(), Distances(), Distances(), Distances()
    for number, one in enumerate(told):
        network.zero_grad()
        objective(network, batch)["loss"].backward()
        norms.add(np.linalg.norm(_gradient(network)), one["grad_norm"], relative=True)
        found = step(training, state, network, [batch], settings.rate(number), ranks)
        losses.add(found["loss"], one["loss"], relative=True)
        rates.add(settings.rate(number), one["lr"])
        after = f"prefix_after_{number + 1}"
        if after in wanted.files:
            change = wanted[after] - first.numpy()
            moved.add(network.prefix_prompt.detach().numpy() - first.numpy(), change, relative=True)
    yield losses.row("losses of the steps, relative", 5e-6)  # of logits that differ by 3e-5 in float32
    yield norms.row("gradient norms, relative", 2e-5)
    yield rates.row("learning rates", 1e-9)
    yield moved.row("change of the vectors, relative", 2e-2)  # some 2e-6, where float32 has steps of 4e-9
    last = Distances()
    last.add(network(batch.images).detach().numpy(), wanted[f"eval_logits_after_{len(told)}"])
    yield last.row("logits after the steps", 8e-5)


def test_transform(place: Place) -> Iterator[Row]:
    """Held-out regions: their box, its middle."""
    boxes, pixels = Unequal(), Unequal()
    for region in json.loads((place.folder / "prompt/test_transform.json").read_text(encoding="utf-8")):
        image, inside = _region(place, region)
        box = box_of(inside)
        boxes.add(box, region["crop_xywh"])
        raw = read_mask(place.photos / "SegmentationClass" / f"{region['id']}.png")
        mask = np.where(raw == 0, IGNORE_INDEX, np.where(raw == IGNORE_INDEX, raw, raw - 1)).astype(np.uint8)
        found = middle_view(cut(image, box), cut(mask, box))
        for name, ours in zip(("image", "map"), found):
            stem = f"prompt/test_transform_{region['id']}_{name}.png"
            pixels.add(ours, np.asarray(Image.open(place.folder / stem)))
    yield boxes.row("boxes of held-out regions", 0)
    yield pixels.row("held-out regions: pixels and masks", 0)


def sampling(place: Place) -> Iterator[Row]:
    """Which regions of a class are taken."""
    chosen = Unequal()
    for name, wanted in json.loads((place.folder / "prompt/sampling.json").read_text(encoding="utf-8")).items():
        regions, per_class = map(int, name.split("_choose_"))
        chosen.add(balanced([0] * regions, per_class), wanted)
    yield chosen.row("balanced regions", 0)
    yield from _rates(place)


def _rates(place: Place) -> Iterator[Row]:
    """The schedule of the prompts; the file belongs to the networks too."""
    distances = Distances()
    for name, run in json.loads((place.folder / "lr.json").read_text(encoding="utf-8")).items():
        if "prompt" in name:
            settings = PromptSettings("", (), 0, "", "", max_iters=run["max_iter"], lr=run["base_lr"])
            for iteration, rate in run["lr"].items():
                distances.add(settings.rate(int(iteration)), rate)
    yield distances.row("learning rates of the prompts", 1e-12)


PARTS: Parts = {
    "text": Part(("text.npz", "classes.json"), texts),
    "prompt layout": Part(("layout.npz", "context.npz", "prompt_checkpoint.pth"), layout),
    "prompt crops": Part(("train_crops.json", "train_batch.npz"), train_crops),
    "prompt steps": Part(("train_steps.*",), train_steps),
    "prompt test": Part(("test_transform*",), test_transform),
    "prompt sampling": Part(("sampling.json",), sampling),
}
