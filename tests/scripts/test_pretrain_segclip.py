"""scripts/superpixels.py and scripts/pretrain_segclip.py, from captions to a file that --method segclip takes."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segclip.load import read_segclip
from tests.segclip.training.small import encoded, write_folder, write_shards, write_tar
from tests.support import Desk, photo
from training.board import read_log


@pytest.fixture
def options(desk: Desk) -> list[object]:
    return ["--init", desk.weights, "--out", "out", "--batch_size", 2, "--max_iters", 4, "--lr", 0.001]


def test_superpixels_once_then_pretraining(desk: Desk, options: list[object]) -> None:
    write_folder(Path("photos"))
    made = desk.command("scripts.superpixels", "photos", "--side", 32, "--num_workers", 1)
    assert made.code == 0 and "6 maps written in" in made.out
    map_of_p3 = np.array(Image.open("photos-superpixels/p3.png"))
    assert map_of_p3.shape == (32, 41) and map_of_p3.dtype == np.uint16
    again = desk.command("scripts.superpixels", "photos", "--side", 32, "--num_workers", 1)
    assert again.code == 0 and "0 maps written, 6 already there" in again.out
    other = desk.command("scripts.superpixels", "photos", "--side", 24, "--num_workers", 1)
    assert other.code == 2 and "side 32 (now 24)" in other.err

    ended = desk.command("scripts.pretrain_segclip", "--data", "photos", *options)
    assert ended.code == 0, ended.err
    assert "12 captions of photos; 6 batches an epoch" in ended.out and "photos-superpixels" in ended.out
    assert len(read_log(Path("out"))) == 4
    network, _ = read_segclip(Path("out/segclip.safetensors"))
    assert len(network.clip.visual.transformer.layers0) == 1  # of three blocks the last two see groups
    more = desk.command("scripts.pretrain_segclip", "--data", "photos", *options, "--lr", 0.002)
    assert more.code == 2 and "made with other settings: lr 0.001 (now 0.002); pass --overwrite" in more.err


def test_superpixels_into_shards_then_pretraining(desk: Desk, options: list[object]) -> None:
    write_shards(Path("shards"))
    broken = encoded(photo((40, 52), 1), "JPEG")[:200]
    write_tar(Path("shards/00003.tar"), {"x.jpg": broken, "x.txt": b"a broken image"})
    made = desk.command("scripts.superpixels", "shards", "--out", "full", "--side", 32, "--num_workers", 1)
    assert made.code == 0, made.err
    assert "4 shards written" in made.out and "1 images in it got no superpixels" in made.out
    with tarfile.open("full/00001.tar") as archive:
        names = sorted(archive.getnames())
        assert len(names) == 1 + 4 * 4 and names[3] == "000010000.txt"
        stream = archive.extractfile("000010000.superpixels.png")
        assert stream is not None and np.array(Image.open(stream)).shape == (32, 41)
    write_tar(Path("shards/00001.tar"), {"new.jpg": encoded(photo((40, 52), 1)), "new.txt": b"another"})
    again = desk.command("scripts.superpixels", "shards", "--out", "full", "--side", 32, "--num_workers", 1)
    assert "1 shard written, 3 already there" in again.out
    Path("full/00002.tar").write_bytes(b"no tar")
    ended = desk.command("scripts.pretrain_segclip", "--data", "full/{00000..00003}.tar", *options)
    assert ended.code == 3 and "00002.tar: " in ended.err and "a broken tar" in ended.err
    assert "7 captions of 3 tar files" in ended.out and len(read_log(Path("out"))) == 4


def test_a_folder_without_images_is_one_line(desk: Desk) -> None:
    Path("empty").mkdir()
    for name, said in (("gone", "DATA gone: no such folder"), ("empty", "DATA empty: no image in it")):
        ended = desk.command("scripts.superpixels", name)
        assert ended.code == 2 and said in ended.err and ended.err.count("\n") == 1


def test_a_broken_tar_gets_no_copy(desk: Desk) -> None:
    path = write_shards(Path("shards"), (4,))[0]
    path.write_bytes(path.read_bytes()[:5000])
    ended = desk.command("scripts.superpixels", "shards", "--out", "full", "--side", 32, "--num_workers", 1)
    assert ended.code == 3 and "00000.tar: a broken tar" in ended.err and not Path("full/00000.tar").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--data", "gone"], "--data gone: no such folder; expected a folder of images with captions, or tar files"),
        (["--data", "photos", "--batch_size", "13"], "--batch_size 13: there are only 12 captions; take fewer"),
        (["--data", "photos", "--captions", "gone.json"], "gone.json: cannot be read"),
        (["--data", "photos", "--init", "gone.pt"], "gone.pt: no such weight file"),
        (["--data", "photos", "--first_stage_layer", "3"], "cannot become a SegCLIP"),
        (["--data", "photos", "--crop_areas", "1", "0.5"], "--crop_areas 1 0.5: expected the smaller one first"),
        (["--data", "photos", "--superpixels", "gone"], "--superpixels gone: no such folder"),
        (["--data", "photos", "--gt_root", "x"], "go with --val_dataset"),
    ],
)
def test_mistakes_end_in_one_line(desk: Desk, options: list[object], given: list[str], said: str) -> None:
    write_folder(Path("photos"))
    ended = desk.command("scripts.pretrain_segclip", *options, *given)
    assert ended.code == 2 and said in ended.err and ended.err.count("\n") == 1
