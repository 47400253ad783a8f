"""scripts/train_segmentor.py as its users meet it: mistakes in one line, repeats that go on, real processes."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.methods.table import METHODS
from scripts import predict_segmentor, train_segmentor
from segmentor import networks
from segmentor.networks import TextHead
from segmentor.settings import DEEPLABS, SEGFORMERS, TEACHERS
from segmentor.weights import read_state, read_weights
from tests.segmentor.small import LABELS, SmallBody, write_scenes
from tests.support import ROOT, openai_state, tiny_model, tree
from tests.training.small import as_torchrun
from training.board import read_log

SMALL = ["--crop", "48", "--batch_size", "2", "--lr", "0.01", "--scales", "0.9", "1.2", "--device", "cpu"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options for four scenes and their masks; the tiny SegFormer is replaced by two convolutions."""
    write_scenes(tmp_path, 4)
    (tmp_path / "classes.txt").write_text("red\nblue\n")
    monkeypatch.setitem(networks.ARCHES, "segformer-tiny", SmallBody)
    monkeypatch.chdir(tmp_path)
    options = ["--dataset", "folder", "--img_root", "images", "--classes", "classes.txt", "--masks", "masks"]
    return [*options, "--arch", "segformer-tiny", "--out", "out", *SMALL, "--max_iters", "4"]


def test_a_run_from_the_command_line(data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "val.txt").write_text("s0\ns1\n")
    assert train_segmentor.main([*data, "--val_split", "val.txt", "--gt_root", "masks", "--val_every", "2"]) == 0
    _, description = read_state(tmp_path / "out" / "weights.safetensors")
    assert description.labels == LABELS and description.iterations == 4
    log = read_log(tmp_path / "out")
    assert [line["iteration"] for line in log] == [1, 2, 2, 3, 4, 4]
    told = capsys.readouterr().out
    assert f"mIoU {100 * log[-1]['miou']:.1f} on 2 images" in told and "4 images with masks" in told
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    for name, key in (("train/loss", "loss"), ("validation/miou", "miou")):
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        assert shown == [(line["iteration"], pytest.approx(line[key])) for line in log if key in line]
    assert len(events.Scalars("train/lr")) == 4 and events.Images("predictions")[-1].step == 4


def test_repeating_a_finished_run_changes_nothing(data: list[str], tmp_path: Path) -> None:
    assert train_segmentor.main(data) == 0
    before = {name: content for name, content in tree(tmp_path / "out").items() if "tensorboard" not in name}
    assert train_segmentor.main(data) == 0
    assert {name: content for name, content in tree(tmp_path / "out").items() if "tensorboard" not in name} == before


def test_other_settings_are_refused_and_overwritten(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_segmentor.main(data) == 0
    assert train_segmentor.main([*data, "--seed", "1"]) == 2
    assert re.search(r"seed 0 \(now 1\); pass --overwrite or another --out", capsys.readouterr().err)
    assert train_segmentor.main([*data, "--seed", "1", "--overwrite"]) == 0
    assert len(read_log(tmp_path / "out")) == 4
    for path in (tmp_path / "out" / "checkpoints").iterdir():
        path.unlink()
    assert train_segmentor.main([*data, "--seed", "1"]) == 2
    assert "holds weights.safetensors without checkpoints" in capsys.readouterr().err


def test_images_without_masks_are_listed(data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "masks" / "s1.png").unlink()
    assert train_segmentor.main(data) == 3
    ended = capsys.readouterr()
    assert "3 images with masks" in ended.out
    assert ended.err.startswith("1 image failed:\n  s1: ") and "no such mask" in ended.err


# --- MaskCLIP+ ------------------------------------------------------------------------------------

TAUGHT = ["--teacher", "maskclip", "--templates", "dataset"]


@pytest.fixture
def bare(data: list[str]) -> list[str]:
    """The same options without masks."""
    place = data.index("--masks")
    return [*data[:place], *data[place + 2 :]]


def test_images_alone_and_a_clip(
    bare: list[str], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained without any mask, by a text head; the weights are read, and predict, without CLIP."""
    options = [*bare, *TAUGHT, "--head", "text", "--clip", str(weights), "--guided", "1", "2", "--self_train_from", "4"]
    assert train_segmentor.main(options) == 0
    out = capsys.readouterr().out
    assert "4 images without masks" in out and "tiny.pt (ViT, 3 blocks" in out and "text head" in out
    assert "every pixel: 3 of 3 labels (background, red, blue)" in out
    assert "maskclip in iterations 1 to 2, the network itself from 4" in out
    losses = [line["loss"] for line in read_log(tmp_path / "out")]
    assert [loss > 0 for loss in losses] == [True, True, False, True]
    network, description = read_weights(tmp_path / "out" / "weights.safetensors")
    assert (description.head, description.text_width, description.background) == ("text", 32, True)
    assert isinstance(network.head, TextHead) and torch.allclose(network.head.vectors().norm(dim=1), torch.ones(3))
    weights_file = str(tmp_path / "out" / "weights.safetensors")
    assert predict_segmentor.main(["--weights", weights_file, "--img_root", "images", "--out", "predicted"]) == 0
    assert "with a text head" in capsys.readouterr().out and len(list((tmp_path / "predicted").glob("*.png"))) == 4


def test_masks_whose_unseen_classes_are_taught(
    data: list[str], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*data, *TAUGHT, "--clip", str(weights), "--unlabelled", "blue", "--self_train_from", "3"]
    assert train_segmentor.main(options) == 0
    out = capsys.readouterr().out
    assert "hidden  1 of 3 labels (blue)" in out
    assert "maskclip in iterations 1 to 2, the network itself from 3" in out
    assert train_segmentor.main([*options, "--guided", "1", "1"]) == 2
    assert r"teaching_guided [1, 2] (now [1, 1]); pass --overwrite" in capsys.readouterr().err
    other = tmp_path / "other.pt"
    torch.save(openai_state(tiny_model(seed=4)), other)
    assert train_segmentor.main([*options, "--clip", str(other)]) == 2
    assert re.search(r"clip_model \w{16} \(now \w{16}\)", capsys.readouterr().err)
    assert train_segmentor.main([*data, "--unlabelled", "blue", "--overwrite"]) == 0  # hidden, and no more
    assert "of hidden pixels: none, they are not trained on" in capsys.readouterr().out


def test_the_toy_worlds_own_clip_is_the_default(
    bare: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from toyworld.layout import write_dataset

    write_dataset(Path("output/toyworld/data"), 1, 2)
    begin = bare.index("--arch")
    assert train_segmentor.main(["--teacher", "maskclip-v", *bare[begin:], "--max_iters", "1", "--crop", "48"]) == 0
    ended = capsys.readouterr()
    assert "toyworld: 2 images without masks" in ended.out and "clip.pt (ViT, 5 blocks" in ended.out
    assert "maskclip-v in iterations 1 to 1" in ended.out and ended.err == ""


MISTAKES = [
    (["--teacher", "maskclip"], "--unlabelled unseen: folder has no split into seen and unseen classes; pass all"),
    (["--teacher", "maskclip", "--unlabelled", "blu"], r"--unlabelled blu: no class of folder; did you mean 'blue'"),
    (["--teacher", "clip-es"], "invalid choice: 'clip-es'"),
    (["--guided", "1", "2"], "--guided: goes with --teacher"),
    (["--key_smoothing", "1"], "--key_smoothing: goes with --teacher"),
    (["--teacher_confidence", "0.5"], "--teacher_confidence: goes with --teacher"),
    (["--teacher_refined"], "--teacher_refined: goes with --teacher"),
    (["--teacher_pamr", "5"], "--teacher_pamr: goes with --teacher"),
    (["--clip", "x.pt"], "--clip: goes with --teacher or --head text"),
    (["--prompts", "x.safetensors"], "--prompts: goes with --teacher or --head text"),
    (
        ["--head", "text", "--prompts", "x.pth", "--templates", "dataset"],
        "--templates dataset: learned prompts stand in",
    ),
    (["--head", "text", "--clip_pretrained", "openai"], "--clip_pretrained openai: goes with --clip NAME"),
    (["--head", "text", "--clip", "x.pt"], r"x\.pt: no such"),
    (["--head", "text", "--clip", "ViT-X"], "--clip ViT-X: neither a file nor an open_clip model name"),
    (["--head", "text", "--clip", "ViT-B-16"], "--clip ViT-B-16: needs --clip_pretrained with a tag"),
    (["--teacher", "maskclip-v", "--prompt_denoising", "0.5"], "go with --teacher maskclip, not maskclip-v"),
    (["--teacher", "maskclip", "--guided", "3", "2"], "--guided 3 2: nothing is left for the teacher"),
    (["--teacher", "maskclip", "--guided", "5", "6"], "--guided 5 6: after the last of 4 iterations"),
    (["--teacher", "maskclip", "--guided", "1", "3", "--self_train_from", "3"], "only one of them labels at a time"),
    (["--teacher", "maskclip", "--self_train_from", "1"], "--guided 1 0: nothing is left for the teacher"),
    (["--self_train_from", "5", "--unlabelled", "all"], "--self_train_from 5: after the last of 4 iterations"),
    (["--guided", "0", "2"], "guided"),
    (["--masks", "nowhere"], "--masks nowhere: no such folder"),
    (["--img_root", "nowhere"], "--img_root nowhere: no such folder"),
    (["--masks", "images"], r"images/s0\.png: a RGB picture, not labels"),
    (["--arch", "unet"], "invalid choice: 'unet'"),
    (["--crop", "8"], "--crop 8: expected at least 32"),
    (["--scales", "2", "0.5"], "--scales 2 0.5: expected the smaller one first"),
    (["--scales", "0", "1"], "scales"),
    (["--max_iters", "0"], "max_iters"),
    (["--ema", "1"], "--ema 1: expected a decay below 1"),
    (["--seed", "-1"], "--seed: -1: expected 0 or more"),
    (["--gt_root", "masks"], "--gt_root: only with --val_split"),
    (["--val_split", "none.txt", "--gt_root", "masks"], r"none\.txt: no such file"),
    (["--arch", "deeplabv3-resnet50", "--batch_size", "1"], "--batch_size 1: deeplabv3-resnet50 needs at least 2"),
    (["--device", "cuda:99"], "--device cuda:99: not available"),
    (["--pretrained", "none.zip"], "--pretrained none.zip"),
    (["--out", "classes.txt"], "--out classes.txt: cannot be written to"),
    (["no masks"], "--masks is needed: a folder of mask PNGs; only --teacher maskclip can do without"),
    (["no masks", "--self_train_from", "2"], "--masks is needed"),
    (["no masks", "--teacher", "maskclip", "--unlabelled", "red"], "--unlabelled red: goes with --masks"),
]


@pytest.mark.parametrize(("options", "words"), MISTAKES, ids=[" ".join(options) for options, _ in MISTAKES])
def test_a_mistake_is_one_line(
    data: list[str], bare: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, options: list[str], words: str,
) -> None:  # fmt: skip
    def no_network(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", no_network)
    before = tree(tmp_path)
    try:
        given = [*bare, *options[1:]] if options[0] == "no masks" else [*data, *options]
        code = train_segmentor.main(given)
    except SystemExit as ended:
        code = int(str(ended.code))
    err = capsys.readouterr().err
    assert code == 2 and err.count("\n") == 1 and err.startswith("error: ") and re.search(words, err), err
    assert tree(tmp_path) == before


def test_a_balanced_loss_needs_a_background(
    data: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cli import lookup

    spec = lookup.dataset_spec("folder", Path("classes.txt"))
    monkeypatch.setattr(lookup, "dataset_spec", lambda *_: replace(spec, has_background=False))
    assert train_segmentor.main([*data, "--loss", "balanced"]) == 2
    assert "--loss balanced: folder has no background" in capsys.readouterr().err


def test_masks_of_more_classes_are_refused(data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "classes.txt").write_text("red\n")
    assert train_segmentor.main(data) == 2
    assert "holds label 2, but there are labels 0 to 1 only" in capsys.readouterr().err


def test_the_names_here_are_those_of_the_networks() -> None:
    assert {*SEGFORMERS, *DEEPLABS} == set(networks.ARCHES)
    assert {name for name, method in METHODS.items() if method.scores} == set(TEACHERS)


# --- real processes -------------------------------------------------------------------------------

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
RUN = ["-m", "tests.segmentor.run_small"]


@pytest.mark.slow
def test_ctrl_c_and_again_is_a_run_without_a_break(data: list[str], tmp_path: Path) -> None:
    """A real process, interrupted in the middle; the log and the weights of both ways are the same bytes."""
    whole = [*data, "--max_iters", "400", "--ema", "0.9"]
    broken = [sys.executable, *RUN, *whole, "--out", "broken"]
    assert train_segmentor.main(whole) == 0
    process = subprocess.Popen(broken, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while not (tmp_path / "broken" / "log.jsonl").exists() and time.monotonic() < until:  # the loop has begun
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 130 and "interrupted" in err and "Traceback" not in err, err
    done = max(int(path.stem.rpartition("_")[2]) for path in (tmp_path / "broken" / "checkpoints").iterdir())
    assert 0 < done < 400 and len((tmp_path / "broken" / "log.jsonl").read_text().splitlines()) == done
    assert subprocess.run(broken, env=ENVIRONMENT, check=False, capture_output=True).returncode == 0
    for name in ("log.jsonl", "weights.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()


@pytest.mark.slow
def test_two_processes_learn_what_one_does(data: list[str], tmp_path: Path) -> None:
    """With half the batch each; the first one alone tells."""
    one, two = ([*data, "--max_iters", "3", "--batch_size", size] for size in ("4", "2"))
    assert train_segmentor.main(one) == 0

    def work(rank: int) -> None:
        with Path(f"said {rank}.txt").open("w") as said, redirect_stdout(said):
            assert train_segmentor.main([*two, "--out", "two"]) == 0

    as_torchrun(2, work)
    said = [Path(f"said {rank}.txt").read_text() for rank in (0, 1)]
    assert "segformer-tiny after 3 iterations" in said[0] and said[1] == ""
    logs = [read_log(tmp_path / out) for out in ("out", "two")]
    assert len(logs[0]) == len(logs[1]) == 3
    for first, second in zip(*logs):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-3)
