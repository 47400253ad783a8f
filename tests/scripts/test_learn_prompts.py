"""scripts/learn_prompts.py as its users meet it: a run, a break, mistakes in one line, the file in other commands."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip.learned_prompts import read_learned_prompts
from clip.load import load_clip
from scripts import learn_prompts
from tests.segmentor.small import write_scenes
from tests.support import tree
from training import loop
from training.board import read_log
from zsseg.training import prompts


@pytest.fixture
def data(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options for four scenes and their masks, two classes."""
    write_scenes(tmp_path, 4)
    (tmp_path / "classes.txt").write_text("red: red square; red thing\nblue\n")
    monkeypatch.chdir(tmp_path)
    options = ["--dataset", "folder", "--img_root", "images", "--classes", "classes.txt", "--masks", "masks"]
    small = ["--model", str(weights), "--device", "cpu", "--crop", "28", "24", "--batch_size", "4", "--warmup", "1"]
    return [*options, *small, "--out", "out", "--max_iters", "6", "--prefix", "3", "--suffix", "1"]


@pytest.mark.slow
def test_a_run_lowers_the_loss_and_its_file_works(
    data: list[str], tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "val.txt").write_text("s0\ns1\n")
    more = ["--max_iters", "40", "--clip_norm", "0", "--lr", "0.5", "--weight_decay", "0", "--no_flip"]
    held_out = ["--val_split", "val.txt", "--gt_root", "masks", "--val_every", "20"]
    assert learn_prompts.main([*data, *more, *held_out]) == 0
    told, log = capsys.readouterr().out, read_log(tmp_path / "out")
    losses = [line["loss"] for line in log if "loss" in line]
    assert len(losses) == 40 and np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])
    scores = [line for line in log if "macc_top1" in line]
    assert [line["iteration"] for line in scores] == [20, 40] and scores[-1]["acc_top1_base"] <= 1
    assert "8 regions of 2 classes, 8 a round" in told and f"{100 * scores[-1]['macc_top1']:.1f} % of held-out" in told
    learned = read_learned_prompts(tmp_path / "out/prompts.safetensors", load_clip(str(weights)))
    assert learned.prefix.shape == (3, 64) and learned.suffix.shape == (1, 64)
    again = [*data, "--prompts", "out/prompts.safetensors", "--out", "again", "--max_iters", "1", "--lr", "0"]
    assert learn_prompts.main(again) == 0  # starts from them, and a rate of 0 leaves them
    assert (tmp_path / "again/prompts.safetensors").stat().st_size > 0
    same = read_learned_prompts(tmp_path / "again/prompts.safetensors", load_clip(str(weights)))
    assert same.fingerprint == learned.fingerprint


def test_a_broken_run_goes_on_to_the_same_bytes(
    data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert learn_prompts.main(data) == 0
    broken, steps = [*data, "--out", "broken", "--save_every", "2"], []
    real = loop.step

    def step(*given: object) -> object:
        steps.append(1)
        if len(steps) == 4:
            raise MemoryError("killed")
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "step", step)
    with pytest.raises(MemoryError):
        learn_prompts.main(broken)
    assert not (tmp_path / "broken/prompts.safetensors").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert learn_prompts.main(broken) == 0
    assert "goes on from iteration 2" in capsys.readouterr().out
    for name in ("prompts.safetensors", "log.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name
    before = {name: content for name, content in tree(tmp_path / "broken").items() if "tensorboard" not in name}
    assert learn_prompts.main(broken) == 0  # nothing is left to do
    after = {name: content for name, content in tree(tmp_path / "broken").items() if "tensorboard" not in name}
    assert before == after
    assert learn_prompts.main([*broken, "--seed", "1"]) == 2
    assert "seed 0 (now 1); pass --overwrite or another --out" in capsys.readouterr().err


def test_unreadable_masks_are_listed_and_cost_only_themselves(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "masks/s1.png").write_bytes((tmp_path / "masks/s1.png").read_bytes()[:60])
    assert learn_prompts.main([*data, "--max_iters", "1"]) == 3
    ended = capsys.readouterr()
    assert "6 regions of 2 classes" in ended.out and "masks/s1.png" in ended.err and "Traceback" not in ended.err
    assert (tmp_path / "out/prompts.safetensors").exists()


def mistake(kind: str, root: Path) -> list[str]:
    """Options that cannot work."""
    if kind == "width":
        torch.save({"model": {"clip_adapter.prompt_learner.prefix_prompt": torch.zeros(2, 32)}}, root / "p.pth")
    elif kind == "empty":
        for path in (root / "masks").iterdir():
            Image.fromarray(np.zeros((64, 72), np.uint8)).save(path)
    elif kind == "long":
        (root / "classes.txt").write_text("red: " + "very " * 15 + "red\nblue\n")
    elif kind == "leftover":
        (root / "out").mkdir()
        (root / "out/prompts.safetensors").write_bytes(b"x")
    return {
        "width": ["--prompts", "p.pth"],
        "words": ["--prompts", "p.pth", "--first_words", "a photo"],
        "nothing": ["--prefix", "0", "--suffix", "0"],
        "long": ["--prefix", "70"],
        "truth": ["--gt_root", "masks"],
        "masks": ["--masks", "nowhere"],
    }.get(kind, [])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("width", "p.pth: prompts of a text width of 32, but the text tower of tiny.pt has 64"),
        ("words", "--first_words a photo: --prompts says where to start"),
        ("nothing", "--prefix 0 --suffix 0: nothing is left to learn"),
        ("long", "16 tokens, but 71 learned vectors leave room for 3"),
        ("truth", "--gt_root: only with --val_split FILE"),
        ("masks", "--masks nowhere"),
        ("empty", "none of the 2 classes to learn from is in these masks"),
        ("leftover", "holds prompts.safetensors without checkpoints; pass --overwrite"),
    ],
)
def test_mistakes_are_one_line(
    kind: str, said: str, data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert learn_prompts.main([*data, *mistake(kind, tmp_path)]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]
    assert len(err) == 1 and said in err[0], err


def test_unseen_classes_have_no_part_in_learning(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VOC's 16 is potted plant: only `all` learns from it."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    mask = np.zeros((30, 40), np.uint8)
    mask[:10, :10], mask[10:20, 10:20], mask[20:, 20:] = 1, 16, 255
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "images/a.jpg")
    Image.fromarray(mask).save(tmp_path / "masks/a.png")
    (tmp_path / "split.txt").write_text("a\n")
    monkeypatch.chdir(tmp_path)
    seen: list[tuple[int, dict[int, int]]] = []

    def learn(job: prompts.Job, *_: object) -> prompts.Report:
        seen.append((len(job.settings.names), {region.label: job.classes[region.label] for region in job.regions}))
        return prompts.Report()

    monkeypatch.setattr(prompts, "train", learn)
    options = ["--dataset", "voc12", "--img_root", "images", "--split_file", "split.txt", "--masks", "masks"]
    for more in ("seen", "all"):
        run = [*options, "--model", str(weights), "--device", "cpu", "--out", "out", "--learn", more]
        assert learn_prompts.main(run) == 0
    assert seen == [(15, {1: 0}), (20, {1: 0, 16: 15})]
