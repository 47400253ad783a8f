"""Proposals of zsseg's own network: its masks and probabilities come through, files say what they were made with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clip.load import load_clip
from common.images import read_image
from dataset.classes_file import read_classes
from dataset.split_file import read_split
from pipeline.methods.zsseg import ZssegSettings, complete
from pipeline.steps.regions import SoftMasks
from tests.support import Command
from tests.zsseg.small import SIZES, small_maskformer
from voc12.spec import SPEC
from zsseg.checkpoint import About, read_checkpoint, write_checkpoint
from zsseg.inference import find_queries, resized
from zsseg.names import class_names
from zsseg.proposals.files import read_regions
from zsseg.proposals.maskformer import PROPOSER, MaskFormerSettings
from zsseg.words import class_text


@pytest.fixture
def network(tmp_path: Path, weights: Path) -> Path:
    """A file of the small network, which compares its queries with the text of the tiny CLIP."""
    sizes, clip = replace(SIZES, text_width=32), load_clip(str(weights), activation="quick_gelu")
    about = About(sizes, ("a", "b"), {"clip": clip.fingerprint, "templates": "vild14"}, 5, short=32, longest=48)
    write_checkpoint(tmp_path / "net.safetensors", small_maskformer(sizes=sizes), about)
    return tmp_path / "net.safetensors"


def test_files_hold_what_the_network_finds(
    command: Command, world: Path, weights: Path, network: Path, tmp_path: Path
) -> None:
    data = ["--dataset", "voc12", "--img_root", world / "JPEGImages", "--out", tmp_path / "out"]
    options = ["--proposals", "maskformer", "--maskformer", network, "--maskformer_clip", weights, "--device", "cpu"]
    ended = command("scripts.propose", *data, *options)
    assert ended.code == 0 and "5 region files written" in ended.out, ended.err
    text = class_text(load_clip(str(weights), activation="quick_gelu"), class_names(SPEC), "vild14")
    loaded = read_checkpoint(network).network
    for image_id in read_split(world / "ImageSets/Segmentation/train.txt"):
        image = resized(np.asarray(read_image(world / f"JPEGImages/{image_id}.jpg")), 32, 48)
        wanted, regions = find_queries(loaded, image, text), read_regions(tmp_path / f"out/{image_id}.npz")
        assert isinstance(regions, SoftMasks)
        assert (regions.size, regions.padded) == (image.shape[:2], wanted.padded)
        np.testing.assert_allclose(regions.planes(slice(None)), wanted.masks().numpy(), atol=5e-3)
        np.testing.assert_allclose(regions.probabilities, wanted.probabilities.numpy(), atol=1e-6)
    assert "5 already there" in command("scripts.propose", *data, *options).out
    other = command("scripts.propose", *data, *options, "--maskformer_templates", "single")
    assert other.code == 2 and "templates auto (now single)" in other.err


def test_which_classes_a_network_learned(network: Path, tmp_path: Path) -> None:
    assert PROPOSER.learned(MaskFormerSettings(str(network))) == ("a", "b")
    torch.save(read_checkpoint(network).network.state_dict(), tmp_path / "net.pth")  # as published: it does not say
    assert PROPOSER.learned(MaskFormerSettings(str(tmp_path / "net.pth"))) is None


def test_what_it_learned_counts_as_seen(network: Path, weights: Path, tmp_path: Path) -> None:
    """The split hides the first two of three classes; the network learned the second nevertheless, and no other."""
    (tmp_path / "classes.txt").write_text("c\nb\nd\n")
    spec = replace(read_classes(tmp_path / "classes.txt"), unseen=(0, 1))
    clip = load_clip(str(weights), activation="quick_gelu")
    ours = ZssegSettings(proposals="maskformer", templates="dataset", proposer=MaskFormerSettings(str(network)))
    assert complete(clip, spec, ours).seen == (1,)
    assert complete(clip, spec, ZssegSettings(templates="dataset")).seen == (2,)


def test_mistakes(command: Command, world: Path, weights: Path, network: Path, tmp_path: Path) -> None:
    data = ["--dataset", "voc12", "--img_root", world / "JPEGImages", "--out", tmp_path / "out"]
    data += ["--proposals", "maskformer", "--device", "cpu"]
    assert "--maskformer is needed" in command("scripts.propose", *data).err
    inner = command("scripts.propose", *data, "--identity", "x")  # a setting, but no option
    assert inner.code == 2 and "unrecognized arguments: --identity" in inner.err
    missing = command("scripts.propose", *data, "--maskformer", tmp_path / "none.pth")
    assert missing.code == 2 and "none.pth" in missing.err
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    wrong = command("scripts.propose", *data, "--maskformer", tmp_path / "other.pth", "--maskformer_clip", weights)
    assert wrong.code == 2 and "not the weights of a MaskFormer (found a)" in wrong.err
