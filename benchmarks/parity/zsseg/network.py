"""Parts of a golden folder: two small MaskFormers on photos, their losses, gradients and a step, learning rates."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.parity.parts import Distances, Part, Parts, Place, Row, Unequal
from benchmarks.parity.zsseg.regions import LOGITS, classifier_of
from common.images import read_image
from pipeline.steps.maps import resize_maps
from pipeline.steps.regions import RegionMaps, added
from training.loop import Training, step
from training.ranks import Ranks
from training.schedule import polynomial
from training.state import fresh_state
from zsseg.checkpoint import read_checkpoint
from zsseg.ensemble import ensemble
from zsseg.inference import find_queries, network_input, resized
from zsseg.maskformer import MaskFormer
from zsseg.proposals.maskformer import propose
from zsseg.proposals.proposer import Photo
from zsseg.regions import LOGIT_SCALE, Crops, classify, encode_regions
from zsseg.training.losses import Targets, matched_losses, targets_of, weighted_sum
from zsseg.training.optimizer import CLIP_NORM, POWER, optimizer_for

HEADS = 4  # of these networks' attention, which no file says
SHORT, LONGEST = 192, 2048
NETWORKS = {  # by the beginning of their files' names: the weights, the prompts of queries and of regions, the ensemble
    "r50": ("r50_voc_learned", "single", "learned16", 0.7),
    "r101c": ("r101c_coco_vild", "vild14", "vild14", 0.8),
}
TRAINED = "r50"  # of the losses
NOISE = 1e-6  # gradient norms below it are 0 in theory
# Twice what the reference differs from itself by, with two threads and without vector instructions: two programs that
# are right differ from each other by more than each from what is exact.
QUERIES, MASKS, CLASSES = 2e-6, 2.4e-5, 4.2e-5


def network_of(place: Place, name: str) -> MaskFormer:
    return read_checkpoint(place.folder / f"maskformer/{NETWORKS[name][0]}.safetensors", HEADS).network


def text_of(place: Place, name: str, seen_only: bool = False) -> Tensor:
    """The (C, D) text embeddings that queries are compared with."""
    classes = json.loads((place.folder / "classes.json").read_text(encoding="utf-8"))
    rows = torch.from_numpy(np.load(place.folder / "text.npz")[NETWORKS[name][1]][: len(classes["names"])])
    return rows[torch.tensor(classes["seen"], dtype=torch.bool)] if seen_only else rows


def keys(place: Place) -> Iterator[Row]:
    """Names and shapes of the tensors that we write."""
    unequal = Unequal()
    for path in sorted(place.folder.glob("maskformer/*_keys.json")):
        wanted = json.loads(path.read_text(encoding="utf-8"))
        network = read_checkpoint(path.with_name(path.name.replace("_keys.json", ".safetensors")), HEADS).network
        found = {name: list(value.shape) for name, value in network.state_dict().items()}
        unequal.add([found.get(name) == shape for name, shape in wanted.items()], [True] * len(wanted))
        unequal.add(sorted(found.keys() - wanted.keys()), [])
    yield unequal.row("tensors by name and shape", 0.0)


def features(place: Place, name: str) -> Iterator[Row]:
    """Photos up to queries and masks."""
    network, text = network_of(place, name), text_of(place, name)
    pictures, stored, aux_masks = Unequal(), Distances(), Distances()
    embeddings, masks, logits, areas, valid = Distances(), Distances(), Distances(), Distances(), Unequal()
    for path in sorted(place.folder.glob(f"maskformer/{name}_*.npz")):
        wanted, image_id = np.load(path), path.stem.removeprefix(f"{name}_")
        image = resized(np.asarray(read_image(place.photo(image_id))), SHORT, LONGEST)
        pictures.add(image, np.asarray(Image.open(path.with_name(f"{path.stem}_resized.png"))))
        pictures.add(image.shape[:2], wanted["resized_hw"])
        images = network_input([image])
        with torch.no_grad():
            levels, found = network.backbone(images), network(images, text)
            maps = network.sem_seg_head.pixel_decoder(levels)
        for key, value in {**dict(zip(("res2", "res3", "res4", "res5"), levels)), "mask_features": maps}.items():
            key = key if key in wanted else f"backbone_{key}"
            if key in wanted:
                stored.add(value[0], wanted[key], relative=True)
        embeddings.add(found.embeddings[-1, 0], wanted["query_embedding"])
        embeddings.add(found.embeddings[:-1, 0], wanted["aux_query_embedding"])
        masks.add(found.mask_logits[-1, 0], wanted["mask_logits"])
        logits.add(found.class_logits[-1, 0], wanted["class_logits"])
        if "aux_mask_logits" in wanted:
            aux_masks.add(found.mask_logits[:-1, 0], wanted["aux_mask_logits"])
        binary = (find_queries(network, image, text).masks() > 0.5).flatten(1).sum(1)
        areas.add(binary, wanted["mask_area"])
        valid.add(binary > 0, wanted["valid"])
    yield pictures.row(f"{name}: resized photos", 0.0)
    yield stored.row(f"{name}: backbone and pixel decoder, float16, of the largest", 2e-3)
    yield embeddings.row(f"{name}: query embeddings", QUERIES)
    yield masks.row(f"{name}: mask logits", MASKS)
    yield logits.row(f"{name}: class logits", CLASSES)
    if aux_masks.compared:
        yield aux_masks.row(f"{name}: mask logits of earlier layers, float16", 2e-2)
    yield areas.row(f"{name}: pixels of each mask", 1.0)
    yield valid.row(f"{name}: masks with a pixel", 0.0)


def with_clip(place: Place, name: str) -> Iterator[Row]:
    """From a photo to the label PNG, with CLIP's view of the masks."""
    network, text, classifier = network_of(place, name), text_of(place, name), classifier_of(place)
    seen = np.array(json.loads((place.folder / "classes.json").read_text(encoding="utf-8"))["seen"], bool)
    *_, prompts, weight = NETWORKS[name]
    logits, scores, labels = Distances(), Distances(), Unequal()
    for path in sorted(place.folder.glob(f"maskformer/{name}_*.npz")):
        wanted, photo = np.load(path), np.asarray(read_image(place.photo(path.stem.removeprefix(f"{name}_"))))
        size = (photo.shape[0], photo.shape[1])
        regions = propose(network, text, SHORT, LONGEST, Photo("", photo, size))
        assert regions.probabilities is not None
        image = resized(photo, SHORT, LONGEST)
        (found,) = encode_regions(classifier.clip, [(image, regions)], Crops())
        known = classifier.text[prompts]
        logits.add(LOGIT_SCALE * found.features @ known.T, wanted["clip_logits_valid_only"])
        by_clip = classify(found.features, known, range(len(known))).numpy()
        together = ensemble(regions.probabilities, by_clip, found.numbers, seen, weight)
        maps = resize_maps(added(regions, together, slice(0, regions.size[0]))[0], size)
        scale = max(1.0, float(wanted["scores_every4"].max()))
        scores.add(maps[:, ::4, ::4] / scale, wanted["scores_every4"] / scale)
        best = RegionMaps(regions, together).resized(size).argmax(axis=0)
        labels.add(best, np.asarray(Image.open(path.with_name(f"{path.stem}_labels.png"))))
    yield logits.row(f"{name}: CLIP's logits of the masks", LOGITS)
    yield scores.row(f"{name}: summed scores, of 1 or the largest", 4e-6)
    yield labels.row(f"{name}: labels of pixels", 1e-5)


def network_rows(place: Place, name: str) -> Iterator[Row]:
    yield from features(place, name)
    yield from with_clip(place, name)


def batch_of(path: Path) -> tuple[Tensor, list[Targets]]:
    """The normalised images of a golden batch, and the targets on their padded grid."""
    arrays = np.load(path)
    count = sum(name.startswith("image") for name in arrays.files)
    images = network_input([arrays[f"image{index}"] for index in range(count)])
    targets = []
    for index in range(count):
        labels = np.full(images.shape[-2:], 255, np.int64)
        target = arrays[f"target{index}"]
        labels[: target.shape[0], : target.shape[1]] = target
        targets.append(targets_of(torch.from_numpy(labels)))
    return images, targets


def losses(place: Place) -> Iterator[Row]:
    """Matches, losses and gradients of each batch."""
    text, cases = text_of(place, TRAINED, seen_only=True), sorted(place.folder.glob("maskformer/losses_*.npz"))
    logits, masks, matches = Distances(), Distances(), Unequal()
    values, norms, noise, gradients = Distances(), Distances(), Distances(), Distances()
    for path in cases:
        network, (images, targets) = network_of(place, TRAINED), batch_of(path)
        arrays, wanted = np.load(path), json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        found = network(images, text)
        logits.add(found.class_logits[-1].detach(), arrays["class_logits"])
        masks.add(found.mask_logits[-1].detach(), arrays["mask_logits"])
        matches.add([[int(each) for each in target.classes] for target in targets] == wanted["target_classes"], True)
        for name, pairs in wanted["matches"].items():
            layer = -1 if name == "final" else int(name.removeprefix("aux"))
            given = [target.masks for target in targets], [target.classes for target in targets]
            chosen = network.criterion.matcher(found.mask_logits[layer], found.class_logits[layer], *given)
            for one, other in zip(chosen, pairs, strict=True):
                matches.add([part.tolist() for part in one], other)
        ours = matched_losses(network.criterion, found, targets)
        total = weighted_sum(ours)
        total.backward()
        ordered = list(wanted["unweighted"])
        values.add(
            [*(float(ours[name].detach()) for name in ordered), float(total.detach())],
            [*wanted["unweighted"].values(), wanted["total"]],
            relative=True,
        )
        learned = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
        values.add(sorted(ours.keys() ^ wanted["unweighted"].keys()), [])
        norms.add(sorted(learned.keys() ^ wanted["grad_norm_per_parameter"].keys()), [])
        norms.add(sorted(set(wanted["without_gradient"]) & learned.keys()), [])
        for name, norm in wanted["grad_norm_per_parameter"].items():
            (noise if norm < NOISE else norms).add(float(learned[name].norm()), norm, relative=norm >= NOISE)
        whole = torch.linalg.vector_norm(torch.stack([gradient.norm() for gradient in learned.values()]))
        norms.add(float(whole), wanted["grad_norm_total"], relative=True)
        for key, name in (
            ("grad_non_object", "clip_adapter.non_object_embedding"),
            ("grad_query_embed", "sem_seg_head.predictor.query_embed.weight"),
        ):
            gradients.add(learned[name], arrays[key], relative=True)
    yield logits.row("training: class logits", CLASSES)
    yield masks.row("training: mask logits", MASKS)
    yield matches.row("training: matches of every layer", 0.0)
    yield values.row("training: losses, of the largest", 1e-6)
    yield norms.row("training: gradient norms, relative", 1e-5)
    if noise.compared:
        yield noise.row("training: gradient norms that are 0 in theory", NOISE)
    yield gradients.row("training: two gradients, of the largest", 1e-5)


def groups(place: Place) -> Iterator[Row]:
    """Rate and decay of every parameter."""
    wanted = json.loads((place.folder / "maskformer/optimizer_groups.json").read_text(encoding="utf-8"))
    network, base = network_of(place, TRAINED), 1e-4
    optimizer = optimizer_for(network)
    names = {id(weight): name for name, weight in network.named_parameters()}
    found = {
        names[id(weight)]: (group["factor"] * base, group["weight_decay"])
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    values, distances = Unequal(), Distances()
    values.add([type(optimizer).__name__ == wanted["type"], len(found)], [True, len(wanted["groups"])])
    for group in wanted["groups"]:
        distances.add(found.get(group["name"], (np.nan, np.nan)), (group["lr"], group["weight_decay"]))
    for key in ("betas", "eps"):
        distances.add(optimizer.defaults[key], wanted[key])
    yield values.row("optimiser: parameters", 0.0)
    yield distances.row("optimiser: rates and decays", 1e-12)


def after_one_step(place: Place) -> Iterator[Row]:
    """Five tensors after a step of our training loop."""
    wanted = np.load(place.folder / "maskformer/after_one_step.npz")
    network, text = network_of(place, TRAINED), text_of(place, TRAINED, seen_only=True)

    def objective(model: Any, batch: tuple[Tensor, list[Targets]]) -> dict[str, Tensor]:
        return {"loss": weighted_sum(matched_losses(network.criterion, model(batch[0], text), batch[1]))}

    training = Training(objective, lambda iteration: 1e-4, 1, Path(), {}, clip_norm=CLIP_NORM)
    state = fresh_state(network, optimizer_for(network), None)  # type: ignore[arg-type]
    batch = batch_of(place.folder / "maskformer/losses_two_sizes.npz")
    step(training, state, network, [batch], 1e-4, Ranks(torch.device("cpu")))
    near, far = Distances(), Distances()
    for name in wanted.files:
        found = network.get_parameter(name).detach().numpy()
        far.add(found, wanted[name])
        near.add(np.median(np.abs(found - wanted[name])), 0.0)
    yield near.row("one step: median difference of each tensor", 6e-8)
    yield far.row("one step: all, a tiny gradient may change its sign", 2e-4)


def rates(place: Place) -> Iterator[Row]:
    """The schedule of the networks."""
    distances = Distances()
    for name, run in json.loads((place.folder / "lr.json").read_text(encoding="utf-8")).items():
        if "maskformer" in name:
            for iteration, rate in run["lr"].items():
                distances.add(polynomial(int(iteration), run["base_lr"], run["max_iter"], POWER), rate)
    yield distances.row("learning rates of the networks", 1e-12)


PARTS: Parts = {
    "keys": Part(("maskformer/*_keys.json",), keys),
    **{
        name: Part((f"maskformer/{name}_*.npz", f"maskformer/{name}_*.png", f"maskformer/{name}_*.safetensors"), rows)
        for name, rows in ((name, partial(network_rows, name=name)) for name in NETWORKS)
    },
    "losses": Part(("maskformer/losses_*.npz", "maskformer/losses_*.json"), losses),
    "groups": Part(("maskformer/optimizer_groups.json",), groups),
    "one step": Part(("maskformer/after_one_step.npz",), after_one_step),
    "rates": Part(("lr.json",), rates),
}
