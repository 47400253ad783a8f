"""Targets, matching and losses, against plain loops."""

import itertools
import math

import torch
from torch import Tensor

from tests.zsseg.small import SIZES, small_maskformer
from zsseg.maskformer import Predictions
from zsseg.training.losses import Targets, matched_losses, targets_of, weighted_sum

H, W, GRID = 12, 16, 4


def targets() -> list[Targets]:
    """Two images, the second with one class."""
    labels = torch.full((2, H, W), 255)
    labels[0, :6, :8], labels[0, 6:, 8:], labels[1, 2:9, 3:11] = 1, 0, 1
    return [targets_of(each) for each in labels]


def predictions() -> Predictions:
    torch.manual_seed(1)
    shape = (2, 2, SIZES.queries)
    return Predictions(
        torch.zeros(0), torch.randn(*shape, SIZES.classes + 1), 3 * torch.randn(*shape, H // GRID, W // GRID)
    )


def test_one_mask_for_each_class_that_is_there() -> None:
    first, second = targets()
    assert first.classes.tolist() == [0, 1] and second.classes.tolist() == [1]
    assert first.masks.shape == (2, H, W) and first.masks.sum((1, 2)).tolist() == [48, 48]
    assert not len(targets_of(torch.full((H, W), 255)).classes)


def focal(logit: float, target: float) -> float:
    probability = 1 / (1 + math.exp(-logit))
    right = probability if target else 1 - probability
    return (0.25 if target else 0.75) * (1 - right) ** 2 * -math.log(right)


def of_pair(logits: Tensor, mask: Tensor) -> tuple[float, float]:
    """Focal and dice loss of one query and one target on one grid."""
    pairs = list(zip(logits.flatten().tolist(), mask.flatten().tolist()))
    found = [1 / (1 + math.exp(-logit)) for logit, _ in pairs]
    both = sum(value * target for value, (_, target) in zip(found, pairs))
    dice = 1 - (2 * both + 1) / (sum(found) + float(mask.sum()) + 1)
    return sum(focal(*pair) for pair in pairs) / len(pairs), dice


def cheapest(classes: Tensor, masks: Tensor, target: Targets, class_weight: float = 1.0) -> tuple[int, ...]:
    """The query of each target: of all choices the one with the least costs, on the grid of the mask logits."""
    small = target.masks[:, ::GRID, ::GRID]
    probability = classes.softmax(-1)

    def cost(query: int, index: int) -> float:
        focal_loss, dice = of_pair(masks[query], small[index])
        return 20 * focal_loss + dice - class_weight * float(probability[query, target.classes[index]])

    choices = itertools.permutations(range(len(masks)), len(small))
    return min(choices, key=lambda choice: sum(cost(query, index) for index, query in enumerate(choice)))


def test_losses_are_those_of_a_plain_loop_over_every_choice() -> None:
    wanted, found, expected = targets(), predictions(), {}
    for layer, ending in ((0, "_0"), (1, "")):
        focals, dices, entropies, weights = 0.0, 0.0, 0.0, 0.0
        for image, target in enumerate(wanted):
            classes, masks = found.class_logits[layer, image], found.mask_logits[layer, image]
            chosen = cheapest(classes, masks, target)
            large = torch.nn.functional.interpolate(masks[None], size=(H, W), mode="bilinear")[0]
            for index, query in enumerate(chosen):
                focal_loss, dice = of_pair(large[query], target.masks[index])
                focals, dices = focals + focal_loss, dices + dice
            for query in range(SIZES.queries):
                seen = chosen.index(query) if query in chosen else None
                label, weight = (SIZES.classes, 0.1) if seen is None else (int(target.classes[seen]), 1.0)
                entropies -= weight * float(classes[query].log_softmax(-1)[label])
                weights += weight
        parts = {"loss_ce": entropies / weights, "loss_mask": focals / 3, "loss_dice": dices / 3}
        expected |= {name + ending: value for name, value in parts.items()}
    ours = matched_losses(small_maskformer().criterion, found, wanted)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(float(ours[name]), value, atol=1e-5, rtol=1e-5)
    total = sum(value * (20 if "mask" in name else 1) for name, value in expected.items())
    torch.testing.assert_close(float(weighted_sum(ours)), total, atol=1e-4, rtol=1e-5)
    shared = matched_losses(small_maskformer().criterion, found, wanted, counted=6.0)  # more masks on other ranks
    torch.testing.assert_close(float(shared["loss_mask"]), expected["loss_mask"] / 2, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(float(shared["loss_ce"]), expected["loss_ce"], atol=1e-6, rtol=1e-5)


def test_another_weight_of_classes_counts_in_matches_and_sum() -> None:
    """One image, one layer: the query of the only class is the one that the class's weight makes cheapest."""
    target, classes = targets()[1], torch.zeros(1, 1, SIZES.queries, SIZES.classes + 1)
    masks = torch.full((1, 1, SIZES.queries, H // GRID, W // GRID), -4.0)
    masks[0, 0, 2] = torch.where(target.masks[0, ::GRID, ::GRID] > 0, 4.0, -4.0)  # the best mask
    classes[0, 0, 5, 1] = 9.0  # the best class
    found, criterion = Predictions(torch.zeros(0), classes, masks), small_maskformer().criterion
    for weight, best in ((1.0, 2), (50.0, 5)):
        assert cheapest(classes[0, 0], masks[0, 0], target, weight) == (best,)
        criterion.matcher.cost_class = weight
        losses = matched_losses(criterion, found, [target])
        large = torch.nn.functional.interpolate(masks[0], size=(H, W), mode="bilinear")[0, best]
        torch.testing.assert_close(float(losses["loss_dice"]), of_pair(large, target.masks[0])[1], atol=1e-5, rtol=1e-5)
        total = weight * losses["loss_ce"] + 20 * losses["loss_mask"] + losses["loss_dice"]
        torch.testing.assert_close(weighted_sum(losses, weight), total)


def test_what_is_unknown_changes_nothing_and_leads_to_nothing() -> None:
    """Matches and losses are those of the pixels that are left; focal losses are means over all pixels."""
    labels = torch.full((H, W), 254)
    labels[:6, :8], labels[6:, 8:], labels[:, 12:] = 1, 0, 255
    target = targets_of(labels, ignored=True)
    assert target.classes.tolist() == [0, 1] and target.unknown is not None and int(target.unknown.sum()) == 4 * H
    torch.manual_seed(2)
    logits = (3 * torch.randn(1, 1, SIZES.queries, H // GRID, W // GRID)).requires_grad_()
    found = Predictions(torch.zeros(0), torch.randn(1, 1, SIZES.queries, SIZES.classes + 1), logits)
    losses = matched_losses(small_maskformer().criterion, found, [target])
    part = Targets(target.classes, target.masks[..., :12])
    chosen = cheapest(found.class_logits[0, 0], logits[0, 0, ..., :3].detach(), part)
    large = torch.nn.functional.interpolate(logits[0], size=(H, W), mode="bilinear")[0, ..., :12].detach()
    pairs = [of_pair(large[query], part.masks[index]) for index, query in enumerate(chosen)]
    values = {name: float(value.detach()) for name, value in losses.items()}
    torch.testing.assert_close(values["loss_dice"], sum(dice for _, dice in pairs) / 2, atol=1e-5, rtol=1e-5)
    of_all = sum(focal for focal, _ in pairs) / 2 * 12 / W
    torch.testing.assert_close(values["loss_mask"], of_all, atol=1e-5, rtol=1e-5)
    weighted_sum(losses).backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all() and logits.grad[..., :3].any()
    elsewhere = [targets_of(torch.full((H, W), 255), ignored=True)]  # nothing is known at all
    assert float(matched_losses(small_maskformer().criterion, found, elsewhere)["loss_mask"].detach()) == 0


def test_queries_are_matched_without_what_is_unknown() -> None:
    """The first query is right where the class is known and covers all that is unknown; the second finds half of it."""
    labels = torch.full((H, W), 254)
    labels[:, :4], labels[:, 8:] = 0, 255
    logits = torch.full((1, 1, SIZES.queries, H // GRID, W // GRID), -9.0)
    logits[0, 0, 0, :, [0, 2, 3]], logits[0, 0, 1, :2, 0] = 9.0, 9.0
    found = Predictions(torch.zeros(0), torch.zeros(1, 1, SIZES.queries, SIZES.classes + 1), logits)
    ignored, outside = (
        float(matched_losses(small_maskformer().criterion, found, [targets_of(labels, way)])["loss_dice"])
        for way in (True, False)
    )
    first, second = torch.nn.functional.interpolate(logits[0, :, :2], size=(H, W), mode="bilinear")[0]
    mask = (labels == 0).float()
    assert abs(ignored - of_pair(first[:, :8], mask[:, :8])[1]) < 1e-4
    assert abs(outside - of_pair(second, mask)[1]) < 1e-4


def test_where_all_is_known_nothing_changes() -> None:
    """Also with more masks than queries, which all count in what losses are divided by."""
    count, found = SIZES.queries + 2, predictions()
    masks = torch.rand(count, H, W, generator=torch.Generator().manual_seed(4)).round()
    usual = [Targets(torch.arange(count) % SIZES.classes, masks), *targets()[1:]]
    known = [Targets(each.classes, each.masks, torch.zeros(H, W, dtype=torch.bool)) for each in usual]
    wanted, ours = (matched_losses(small_maskformer().criterion, found, each) for each in (usual, known))
    for name, value in wanted.items():
        torch.testing.assert_close(ours[name], value)


def test_images_without_targets_say_no_object() -> None:
    network, none = small_maskformer(), targets_of(torch.full((64, 64), 255))
    losses = matched_losses(network.criterion, network(torch.randn(1, 3, 64, 64), torch.eye(2, 16)), [none])
    assert float(losses["loss_mask"].detach()) == 0 == float(losses["loss_dice_0"].detach())
    weighted_sum(losses).backward()
    gradient = network.sem_seg_head.predictor.query_embed.weight.grad
    assert gradient is not None and torch.isfinite(gradient).all() and gradient.any()
