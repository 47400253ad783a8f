"""scripts/tag_images.py: the label file, what reads it, the scores, and a line for each mistake."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.lookup import select
from dataset.voc_layout import read_labels
from tests.support import Command, tree
from voc12.spec import SPEC


@pytest.fixture
def tagged(command: Command, world: Path, weights: Path, tmp_path: Path) -> tuple[str, Path, dict]:
    """The output, the label file and the scores of a run on the small world with VOC's names."""
    out, scores = tmp_path / "tags.txt", tmp_path / "tags.json"
    ended = command(
        "scripts.tag_images", "--dataset", "voc12", "--img_root", world, "--model", weights, "--templates", "dataset",
        "--out", out, "--json", scores,
    )  # fmt: skip
    assert ended.code == 0 and not ended.err
    return ended.out, out, json.loads(scores.read_text())


def test_every_image_has_a_line_that_the_cam_stage_reads(tagged: tuple[str, Path, dict], world: Path) -> None:
    _, out, _ = tagged
    lines = [line.split() for line in out.read_text().splitlines()]
    assert [line[0] for line in lines] == list("abcde") and all(len(line) > 1 for line in lines)
    selection = select("voc12", world, None, None, labels=str(out))
    samples, failures = selection.samples()
    assert not failures
    assert [sample.labels for sample in samples] == [tuple(int(part) for part in line[1:]) for line in lines]


def test_scores_are_against_the_annotations(tagged: tuple[str, Path, dict], world: Path) -> None:
    shown, out, found = tagged
    truth = {name: set(read_labels(world / "Annotations" / f"{name}.xml", SPEC.classes)) for name in "abcde"}
    tags = {line.split()[0]: {int(part) for part in line.split()[1:]} for line in out.read_text().splitlines()}
    hits = {name: len(truth[name] & tags[name]) for name in "abcde"}
    assert found["precision"] == pytest.approx(np.mean([hits[name] / len(tags[name]) for name in "abcde"]))
    assert found["recall"] == pytest.approx(np.mean([hits[name] / len(truth[name]) for name in "abde"]))
    present = {SPEC.classes[index] for labels in truth.values() for index in labels}
    assert {name for name, value in found["ap"].items() if value is not None} == present
    assert found["map"] == pytest.approx(np.mean([found["ap"][name] for name in present]))
    assert found["images"] == 5 and f"mAP {100 * found['map']:.1f}" in shown


def test_own_images_need_classes_and_no_labels(command: Command, world: Path, weights: Path, tmp_path: Path) -> None:
    """Without truth there are no scores; with --labels there are, for the images that have any."""
    photos, classes, truth = tmp_path / "photos" / "my trip", tmp_path / "classes.txt", tmp_path / "truth.csv"
    photos.mkdir(parents=True)
    for name in "ab":
        (photos / f"{name} 1.jpg").write_bytes((world / "JPEGImages" / f"{name}.jpg").read_bytes())
    classes.write_text("dog\ncat\ncar\n")
    truth.write_text("image,labels\nmy trip/b 1.jpg,dog;car\n")
    out, scores = tmp_path / "tags.txt", tmp_path / "tags.json"
    own = ("--dataset", "folder", "--img_root", tmp_path / "photos", "--classes", classes, "--templates", "dataset")
    run = ("--model", weights, "--out", out, "--json", scores)
    ended = command("scripts.tag_images", *own, *run)
    assert ended.code == 0 and "true labels are not known" in ended.out and not scores.exists()
    assert [line.rsplit('"', 1)[0] for line in out.read_text().splitlines()] == ['"my trip/a 1', '"my trip/b 1']
    samples, _ = select("folder", tmp_path / "photos", None, None, classes, str(out)).samples()
    assert [sample.id for sample in samples] == ["my trip/a 1", "my trip/b 1"]
    before = out.read_text()
    ended = command("scripts.tag_images", *own, *run, "--labels", truth)
    assert ended.code == 0 and out.read_text() == before
    assert json.loads(scores.read_text())["images"] == 1


def test_thresholds_reach_the_tagging(command: Command, world: Path, weights: Path, tmp_path: Path) -> None:
    data = ("--dataset", "voc12", "--img_root", world, "--model", weights, "--templates", "dataset")
    counts = []
    for index, share in enumerate((0, 0.5, 1)):
        out = tmp_path / f"{index}.txt"
        assert command("scripts.tag_images", *data, "--tag_threshold", share, "--out", out).code == 0
        counts.append(sum(len(line.split()) - 1 for line in out.read_text().splitlines()))
    assert counts[0] > counts[1] >= counts[2] == 5  # share 1 leaves the argmax alone


def test_an_unreadable_image_is_listed_and_has_no_line(
    command: Command, world: Path, weights: Path, tmp_path: Path
) -> None:
    (world / "JPEGImages" / "b.jpg").write_bytes(b"no image")
    (world / "JPEGImages" / "d.jpg").unlink()
    data = ("--dataset", "voc12", "--img_root", world, "--model", weights, "--templates", "dataset")
    ended = command("scripts.tag_images", *data, "--out", tmp_path / "tags.txt")
    assert ended.code == 3 and "2 images failed" in ended.err
    assert [line[0] for line in (tmp_path / "tags.txt").read_text().splitlines()] == list("ace")


def test_missing_annotations_are_no_trouble(command: Command, world: Path, weights: Path, tmp_path: Path) -> None:
    for xml in (world / "Annotations").iterdir():
        xml.unlink()
    (world / "Annotations").rmdir()
    Image.new("RGB", (20, 20)).save(world / "JPEGImages" / "a.jpg")
    data = ("--dataset", "voc12", "--img_root", world, "--model", weights, "--templates", "dataset")
    ended = command("scripts.tag_images", *data, "--out", tmp_path / "tags.txt")
    assert ended.code == 0 and "true labels are not known" in ended.out
    assert len((tmp_path / "tags.txt").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--dataset", "voc12"], "--img_root"),
        (["--dataset", "voc12", "--img_root", "HERE/none"], "no such folder"),
        (["--dataset", "folder", "--img_root", "HERE"], "--classes"),
        (
            ["--dataset", "voc12", "--img_root", "HERE/VOC2012", "--tag_votes", "13", "--model", "WEIGHTS"],
            "--tag_votes",
        ),
        (["--dataset", "voc12", "--img_root", "HERE/VOC2012", "--labels", "dgo"], "did you mean 'dog'"),
        (["--tag_threshold", "2"], "from 0 to 1"),
        (["--templates", "mine"], "maskclip85"),
    ],
)
def test_a_mistake_is_one_line(
    options: list[str], expected: str, command: Command, world: Path, weights: Path, tmp_path: Path
) -> None:
    filled = [part.replace("WEIGHTS", str(weights)).replace("HERE", str(tmp_path)) for part in options]
    ended = command("scripts.tag_images", *filled, "--out", tmp_path / "out" / "tags.txt")
    assert ended.code == 2 and expected in ended.err and not tree(tmp_path / "out")
    assert len([line for line in ended.err.splitlines() if line.startswith("error: ")]) == 1


def test_the_next_command_names_the_model(command: Command, world: Path, weights: Path, tmp_path: Path) -> None:
    own = tmp_path / "my clip.pt"
    own.write_bytes(weights.read_bytes())
    data = ("--dataset", "voc12", "--img_root", world, "--templates", "dataset", "--out", tmp_path / "tags.txt")
    ended = command("scripts.tag_images", *data, "--model", own, "--activation", "gelu")
    assert ended.code == 0, ended.err
    assert f"--labels {tmp_path}/tags.txt --model '{own}' --activation gelu   (CAMs" in ended.out
