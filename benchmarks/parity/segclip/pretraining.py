"""Superpixels, crops, and three steps of training with the reference's noise, by a golden SegCLIP."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.parity.parts import Distances, Part, Parts, Place, Row, Unequal
from clip.device import pick_device
from common.images import read_image
from segclip.load import read_segclip
from segclip.training.captions import caption_tokens
from segclip.training.objective import Noise, Pretraining, Step, kept_patches
from segclip.training.samples import normalised
from segclip.training.settings import Settings
from segclip.training.superpixels import patch_ids, read_ids, superpixels
from segclip.training.trainer import optimizer_for
from segclip.training.views import Crop, cut_out, stored
from training import loop
from training.ranks import Ranks
from training.state import fresh_state

ATTENTIONS = {"": "batch", "_own_tokens": "image"}  # suffix of the files: what the centres looked at
LOSSES = {"contrastive": "contrastive", "superpixels": "superpixel_kl", "masked": "mae", "loss": "total"}
BOTH_WAYS = (
    "contrastive_text_to_image",
    "contrastive_image_to_text",
    "superpixel_kl_mean_to_patch",
    "superpixel_kl_patch_to_mean",
)


def superpixel_rows(place: Place) -> Iterator[Row]:
    """Of the stored images: their size, their superpixels, and the superpixel of each patch of three crops."""
    visual = read_segclip(place.folder / "segclip.pt")[0].clip.visual
    side, patch = visual.image_size, visual.conv1.kernel_size[0]
    ids, patches, sizes, grey = Unequal(), Unequal(), Unequal(), Distances()
    for path in sorted((place.folder / "superpixels").glob("*.npz")):
        held = np.load(path)
        rgb, size = held["rgb"], held["rgb"].shape[:2]
        found = superpixels(rgb)
        wanted = read_ids(path.with_suffix(".png"), size)
        ids.add(found, wanted)
        for corners, of_patches in zip(held["coords"], held["patch_ids"]):
            patches.add(patch_ids(wanted, tuple(corners), side, patch).reshape(of_patches.shape), of_patches)
        ours = stored(read_image(place.photo(path.stem)), side)
        sizes.add(ours.size[::-1], size)
        if ours.size[::-1] == size:
            grey.add([np.abs(np.asarray(ours, np.float64) - rgb).mean()], [0.0])
        with Image.open(path.with_suffix(".jpg")) as jpeg:
            sizes.add(jpeg.size[::-1], size)
            sizes.add(stored(Image.fromarray(rgb), side).size[::-1], size)
    yield sizes.row("stored images: size", 0)
    yield grey.row("stored images: mean difference in grey levels, theirs as JPEG 75", 6.0)
    yield ids.row("superpixels", 0)
    yield patches.row("superpixels of patches", 0)


def batch_rows(place: Place) -> Iterator[Row]:
    """The crops of the batch with their superpixels, and the tokens of the captions."""
    batch = np.load(place.folder / "train/batch.npz")
    side = batch["rgb"].shape[1]
    pixels, corners, ids, tokens = Unequal(), Distances(), Unequal(), Unequal()
    for index, image_id in enumerate(batch["ids"]):
        held = np.load(place.folder / f"superpixels/{image_id}.npz")["rgb"]
        maps = read_ids(place.folder / f"superpixels/{image_id}.png", held.shape[:2])
        crop = Crop(*map(int, batch["box_yxhw"][index]))
        pixels.add(cut_out(Image.fromarray(held), crop, side), batch["rgb"][index])
        corners.add(crop.corners(held.shape[:2]), batch["coords"][index])
        found = patch_ids(maps, crop.corners(held.shape[:2]), side, side // batch["patch_ids"].shape[1])
        ids.add(found.reshape(batch["patch_ids"][index].shape), batch["patch_ids"][index])
        wanted = batch["input_ids"][index]
        tokens.add(caption_tokens(str(batch["captions"][index]), len(wanted)), wanted)
        tokens.add(wanted != 0, batch["attention_mask"][index])  # zeros behind the end token are not attended to
    yield pixels.row("training crops", 0)
    yield corners.row("crops: corners", 1e-6)
    yield ids.row("crops: superpixels of patches", 0)
    yield tokens.row("captions: tokens", 0)


def noise_of(place: Place, step: int) -> Noise:
    held = np.load(place.folder / "train/noise.npz")
    order = torch.from_numpy(held["ids_restore"][step]).long()[:, 1:].sub(1).argsort(1)
    gumbel, masked = (torch.from_numpy(held[name][step]) for name in ("gumbel", "gumbel_mae"))
    return Noise(gumbel, masked, order)


def noise_rows(place: Place) -> Iterator[Row]:
    """The recorded order of the patches, and which of them are kept: by our rule, of the recorded uniform numbers."""
    held, unequal = np.load(place.folder / "train/noise.npz"), Unequal()
    for step, keep in enumerate(held["ids_keep"]):
        order = torch.from_numpy(held["mask_noise"][step])[:, 1:].argsort(1)
        kept = kept_patches(order.shape[1])
        unequal.add(order[:, :kept] + 1, keep[:, 1:])
        unequal.add(order, noise_of(place, step).order)
        unequal.add((order.argsort(1) >= kept).int(), held["mask"][step][:, 1:])
    yield unequal.row("patches that are kept", 0)


def steps_of(record: Mapping[str, Any]) -> int:
    """How many steps the recorded run would have taken: its first rate is this part of the warm-up's highest one."""
    settings = Settings("", "", 1, (), 1)
    return round(settings.lr / (settings.warmup * max(record["learning_rates"])))


def learned(place: Place, attention: str, steps: int) -> tuple[Pretraining, loop.Training, Step]:
    """What the recorded run trained, its recipe, and its batch without noise."""
    network, _ = read_segclip(place.folder / "segclip.pt")
    batch = np.load(place.folder / "train/batch.npz")
    images, ranks = batch["rgb"], Ranks(pick_device("cpu"))
    settings = Settings(
        "", "quick_gelu", len(images) * steps, (), images.shape[1], attention=attention, batch=len(images), epochs=1
    )
    learning = Pretraining(network, settings, ranks)
    training = loop.Training(
        lambda model, step: model(step),
        settings.rate,
        settings.iterations,
        place.folder,
        {},
        clip_norm=settings.clip_norm,
        after_step=learning.cap_scale,
    )
    tokens, ids = (torch.from_numpy(batch[name]).long() for name in ("input_ids", "patch_ids"))
    inputs = normalised(torch.from_numpy(images).permute(0, 3, 1, 2))
    return learning, training, Step(inputs, tokens, ids.flatten(1), noise_of(place, 0))


def training_rows(place: Place, suffix: str) -> Iterator[Row]:
    """Losses, gradients and rates of the recorded steps, taken by our loop; weights after the last one."""
    wanted = json.loads((place.folder / f"train/losses{suffix}.json").read_text(encoding="utf-8"))
    learning, training, batch = learned(place, ATTENTIONS[suffix], steps_of(wanted["steps"][0]))
    state = fresh_state(learning, optimizer_for(learning, learning.settings), _NoData())
    losses = {True: Distances(), False: Distances()}  # by whether it is the first step
    gradients, norms, rates, scales = Distances(), Distances(), Distances(), Distances()
    weights = dict(learning.network.named_parameters())
    for number, record in enumerate(wanted["steps"]):
        step = Step(batch.images, batch.tokens, batch.ids, noise_of(place, number))
        found, length = _gradients(learning, step)
        for name, theirs in LOSSES.items():
            losses[number == 0].add(found[name], record[theirs], relative=True)
        with torch.no_grad():
            ways = learning.losses(step)
        for name, value in zip(BOTH_WAYS, (*ways["contrastive"], *ways["superpixels"])):
            losses[number == 0].add(value, record[name], relative=True)
        norms.add(length, record["grad_norm_before_clipping"], relative=True)
        if number == 0:
            for name, norm in record["grad_norms"].items():
                norms.add(_gradient(weights[name]).norm().item(), norm, relative=True)
            trained = {name for name, weight in weights.items() if weight.requires_grad}
            norms.add(len(trained & set(record["grad_norms"])), len(trained))
            with np.load(place.folder / f"train/grads{suffix}.npz") as held:
                for name in held:
                    gradients.add(_gradient(weights[name]), held[name], relative=True)
        ours = loop.step(training, state, learning, [step], training.schedule(number), learning.ranks)
        losses[number == 0].add(ours["loss"], record["total"], relative=True)
        used = sorted({group["lr"] for group in state.optimizer.param_groups})
        rates.add(used, sorted(record["learning_rates"]), relative=True)
        scales.add(weights["clip.logit_scale"].item(), record["logit_scale_after"])
        state.iteration += 1
    after = Distances()
    for name, record in wanted["after_last_step"].items():
        after.add(weights[name].detach().norm().item(), record["norm"], relative=True)
        after.add((weights[name].detach().double().sum().item() - record["sum"]) / record["norm"], 0.0)
    title = f"training, centres see the {ATTENTIONS[suffix]}"
    yield losses[True].row(f"{title}: losses of the first step", 1e-4)
    yield losses[False].row(f"{title}: losses of the others", 1e-3)
    yield gradients.row(f"{title}: gradients", 1e-3)
    yield norms.row(f"{title}: norms of gradients", 1e-3)
    yield rates.row(f"{title}: learning rates", 1e-6)
    yield scales.row(f"{title}: logit scale", 1e-5)
    yield _group_row(f"{title}: parameter groups", state.optimizer, wanted["optimizer_groups"], learning)
    yield after.row(f"{title}: weights after the last step", 1e-4)


class _NoData:
    """In the place of the data: the batch is always the same."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any, /) -> None:
        """Nothing to go back to."""


def _gradient(weight: torch.nn.Parameter) -> torch.Tensor:
    assert weight.grad is not None
    return weight.grad


def _gradients(learning: Pretraining, step: Step) -> tuple[dict[str, float], float]:
    """The losses of a step by name, and the length of the whole gradient, which stays in the weights."""
    learning.zero_grad()
    losses = learning(step)
    losses["loss"].backward()
    found = [weight.grad.norm() for weight in learning.parameters() if weight.grad is not None]
    return {name: value.item() for name, value in losses.items()}, torch.stack(found).norm().item()


def _group_row(
    title: str, optimizer: torch.optim.Optimizer, theirs: list[dict[str, Any]], learning: Pretraining
) -> Row:
    """How many weights learn at each highest rate with each decay; theirs count frozen ones too."""
    unequal, ours = Unequal(), dict[tuple[float, float], int]()
    for group in optimizer.param_groups:
        key = (round(learning.settings.lr * group["factor"], 9), group["weight_decay"])
        ours[key] = ours.get(key, 0) + len(group["params"])
    frozen = sum(not weight.requires_grad for weight in learning.network.parameters())
    wanted: dict[tuple[float, float], int] = {}
    for group in theirs:
        key = (round(group["lr"], 9), group["weight_decay"])
        wanted[key] = wanted.get(key, 0) + group["n"]
    unequal.add(sorted(ours), sorted(wanted))
    more = sum(wanted.values()) - sum(ours.values())
    unequal.add([more], [frozen + 1])  # the fixed positions of the decoder are no weights of ours
    return unequal.row(title, 0)


PARTS: Parts = {
    "superpixels": Part(("superpixels/*.jpg", "superpixels/*.npz", "superpixels/*.png"), superpixel_rows),
    "batch": Part(("train/batch.npz",), batch_rows),
    "noise": Part(("train/noise.npz",), noise_rows),
    **{
        f"training{suffix}": Part(
            (f"train/losses{suffix}.json", f"train/grads{suffix}.npz"), partial(training_rows, suffix=suffix)
        )
        for suffix in ATTENTIONS
    },
}
