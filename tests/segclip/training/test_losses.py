"""The losses against loops."""

import math

import pytest
import torch

from segclip.training.losses import contrastive, reconstruction, superpixel_divergence
from tests.training.small import in_processes
from training.ranks import Ranks


def test_contrastive_is_the_cross_entropy_of_each_among_all() -> None:
    images, texts = torch.nn.functional.normalize(
        torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    by_text, by_image = contrastive(images[2:4], texts[2:4], images, texts, torch.tensor(7.0), first=2)
    found = {"text": 0.0, "image": 0.0}
    for index in (2, 3):
        to_images = [math.exp(7 * float(texts[index] @ other)) for other in images]
        to_texts = [math.exp(7 * float(images[index] @ other)) for other in texts]
        found["text"] -= math.log(to_images[index] / sum(to_images)) / 2
        found["image"] -= math.log(to_texts[index] / sum(to_texts)) / 2
    assert by_text.item() == pytest.approx(found["text"], rel=1e-5)
    assert by_image.item() == pytest.approx(found["image"], rel=1e-5)


def softmax(values: list[float]) -> list[float]:
    total = sum(map(math.exp, values))
    return [math.exp(value) / total for value in values]


def test_the_divergence_of_superpixels_as_loops_have_it() -> None:
    ids = torch.tensor([[4, 4, 7, 9, 4], [1, 1, 1, 1, 1]])
    chosen = torch.tensor([[0, 2, 1, 1, 0], [2, 2, 0, 1, 2]])
    hard = torch.nn.functional.one_hot(chosen, 3).float().transpose(1, 2)  # (2, 3, 5)
    forth = back = 0.0
    for image in range(2):
        for patch in range(5):
            same = [other for other in range(5) if ids[image, other] == ids[image, patch]]
            mean = softmax([sum(float(hard[image, group, other]) for other in same) / len(same) for group in range(3)])
            own = softmax(hard[image, :, patch].tolist())
            forth += sum(m * math.log(m / p) for m, p in zip(mean, own)) / (2 * 5 * 3)
            back += sum(p * math.log(p / m) for m, p in zip(mean, own)) / (2 * 5 * 3)
    found = superpixel_divergence(hard, ids)
    assert [value.item() for value in found] == pytest.approx([forth, back], rel=1e-5) and forth > 0.001
    alone = superpixel_divergence(hard, torch.arange(5).expand(2, 5))
    assert [value.item() for value in alone] == pytest.approx([0, 0], abs=1e-7)


def test_the_reconstruction_counts_what_was_left_out() -> None:
    predicted, wanted = torch.randn(2, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    left_out = torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0]])
    loops = [((predicted[i, j] - wanted[i, j]) ** 2).mean().item() for i, j in ((0, 0), (0, 3), (1, 1), (1, 2))]
    assert reconstruction(predicted, wanted, left_out).item() == pytest.approx(sum(loops) / 4, rel=1e-5)


def test_gathered_features_send_gradients_to_their_process() -> None:
    """The gradients that two processes' losses give, summed, are those of the losses of one process."""
    images, texts = torch.nn.functional.normalize(
        torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    whole = [values.clone().requires_grad_() for values in (images, texts)]
    sum(contrastive(*whole, *whole, torch.tensor(5.0))).mul(2).backward()  # the means of two halves, summed

    def work(ranks: Ranks) -> None:
        part = slice(2 * ranks.index, 2 * ranks.index + 2)
        own = [values[part].clone().requires_grad_() for values in (images, texts)]
        gathered = [ranks.gather(values) for values in own]
        assert torch.equal(gathered[0].detach(), images) and torch.equal(gathered[1].detach(), texts)
        sum(contrastive(*own, *gathered, torch.tensor(5.0), 2 * ranks.index)).backward()
        for ours, theirs in zip(own, whole):
            assert ours.grad is not None and theirs.grad is not None
            torch.testing.assert_close(ours.grad, theirs.grad[part], atol=1e-6, rtol=1e-4)

    in_processes(2, work)
