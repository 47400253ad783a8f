"""CLIP on regions: one at a time by hand, in batches over photos, on a ViT and a ResNet.

The reference's numbers are compared in benchmarks/parity.
"""

import numpy as np
import pytest
import torch

from clip.image import MEAN, STD
from clip.load import Clip
from clip.vision import class_token_features, run_block, vision_trunk
from pipeline.steps.regions import LabelMap, Regions, RunLengths, SoftMasks
from tests.support import photo
from tests.tiny_resnet import tiny_resnet_clip
from zsseg import regions as ours
from zsseg.regions import Crops

SIZE = (40, 56)
RGB = photo(SIZE, 9)
VALUES = np.arange(40)[:, None] // 14 * 3 + np.arange(56) // 20
LABELS = LabelMap.of(np.where(VALUES == 4, 8, VALUES))
MASKS = RunLengths.of(np.random.default_rng(0).random((3, *SIZE)) < np.array([0.5, 0, 1])[:, None, None], SIZE)


def by_hand(rgb: np.ndarray, mask: np.ndarray, crops: Crops) -> torch.Tensor:
    """The square of one mask (h, w): fill, crop, normalise, resize."""
    ys, xs = np.nonzero(mask)
    left, top, right, bottom = ours.expanded((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), crops.expand)
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, mask.shape[1]), min(bottom, mask.shape[0])
    fill = 255 * np.array(MEAN) if crops.fill == "mean" else np.zeros(3)
    whole = np.where(mask[..., None], rgb, fill)[top:bottom, left:right]
    values = torch.from_numpy((whole / 255 - MEAN) / STD).float().permute(2, 0, 1)
    return torch.nn.functional.interpolate(values[None], (crops.side, crops.side), mode="bicubic", align_corners=False)[
        0
    ]


@pytest.mark.parametrize("crops", [Crops(), Crops(fill="zero"), Crops(expand=1.6, fill="zero", side=96)])
def test_squares_are_those_made_by_hand(crops: Crops) -> None:
    found = {number: square for number, _, square in ours.cut_out(RGB, LABELS, crops)}
    assert sorted(found) == list(range(LABELS.count))
    for number, square in found.items():
        assert (square - by_hand(RGB, LABELS.labels == number, crops)).abs().max() < 2e-5
    assert [number for number, _, _ in ours.cut_out(RGB, MASKS, crops)] == [0, 2], "the empty mask is left out"


def test_matting_weighs_the_pixels() -> None:
    logits = np.full((1, 10, 14), -5, np.float32)
    logits[0, 2:8, 3:9] = 1
    soft = SoftMasks(SIZE, logits, SIZE)
    weights = soft.planes(slice(0, 1))[0]
    ((_, box, square),) = ours.cut_out(RGB, soft, Crops(matting=True))
    part = ours.normalised(RGB)[:, box[1] : box[3], box[0] : box[2]] * weights[box[1] : box[3], box[0] : box[2]]
    wanted = torch.nn.functional.interpolate(part[None], (224, 224), mode="bicubic", align_corners=False)[0]
    assert (square - wanted).abs().max() < 1e-6 and 0.6 < weights.max() < 0.8


def test_a_box_grows_around_its_centre_and_is_cut_to_integers() -> None:
    assert ours.expanded((10, 20, 15, 40), 1.0) == (10, 20, 15, 40)
    assert ours.expanded((0, 1, 5, 4), 1.5) == (-1, 0, 6, 4)  # -1.25, 0.25, 6.25, 4.75


def test_regions_of_several_photos_go_together(tiny_clip: Clip) -> None:
    photos: list[tuple[np.ndarray, Regions]] = [(RGB, LABELS), (RGB[::-1].copy(), MASKS), (RGB, LABELS)]
    photos.insert(1, (RGB, RunLengths.of(np.zeros((2, *SIZE), bool), SIZE)))  # no region has a pixel
    found = ours.encode_regions(tiny_clip, photos, Crops(), at_once=4)
    assert [len(encoded.numbers) for encoded in found] == [LABELS.count, 0, 2, LABELS.count]
    for (rgb, regions), encoded in zip(photos, found):
        squares = ours.cut_out(rgb, regions, Crops())
        for (number, _, square), again, feature in zip(squares, encoded.numbers, encoded.features):
            trunk = vision_trunk(tiny_clip.visual, square[None], 0, positions="bicubic")
            features = run_block(tiny_clip.visual.transformer.resblocks[-1], trunk.last_input)[0]
            alone = torch.nn.functional.normalize(class_token_features(tiny_clip.visual, features)[0], dim=0)
            assert number == again and (alone - feature).abs().max() < 1e-6
    assert ours.encode_regions(tiny_clip, [], Crops()) == []


def test_a_resnet_pools_its_cells() -> None:
    clip = tiny_resnet_clip()
    (encoded,) = ours.encode_regions(clip, [(RGB, LABELS)], Crops(), at_once=3)
    squares = torch.stack([square for _, _, square in ours.cut_out(RGB, LABELS, Crops())])
    wanted = torch.nn.functional.normalize(clip.model.encode_image(squares), dim=1)
    assert (encoded.features - wanted).abs().max() < 1e-6


def test_classes_compete_with_each_other_and_the_background() -> None:
    text = torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.manual_seed(0)), dim=1)
    features = torch.nn.functional.normalize(torch.randn(3, 8, generator=torch.manual_seed(1)), dim=1)
    found = ours.classify(features, text[:4], [2, 0], text[4:])
    for row, feature in zip(found, features):
        weights = [float(torch.exp(100 * feature @ text[index])) for index in (2, 0, 4)]
        assert row.tolist() == pytest.approx([weights[0] / sum(weights), weights[1] / sum(weights)], abs=1e-5)
    assert ours.classify(features, text, [1]).tolist() == [[1.0]] * 3
    (row, *_), weights = ours.classify(features, text, [1, 3], logit_scale=13.0), []
    for index in (1, 3):
        weights.append(float(torch.exp(13 * features[0] @ text[index])))
    assert row.tolist() == pytest.approx([weight / sum(weights) for weight in weights], abs=1e-5)


def test_a_photo_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="a photo of"):
        next(ours.cut_out(RGB[1:], LABELS, Crops()))
