"""scripts/train_zsseg.py as its users meet it: a run, a repeat, other settings, mistakes in one line."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts import train_zsseg
from tests.segmentor.small import write_scenes
from tests.support import openai_state, tiny_model, tree
from tests.zsseg.training.small import SMALL
from training.board import read_log
from zsseg.checkpoint import read_checkpoint
from zsseg.sizes import NETWORKS


@pytest.fixture
def data(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options for four scenes and their masks, two classes, a small network."""
    write_scenes(tmp_path, 4)
    (tmp_path / "classes.txt").write_text("red\nblue\n")
    (tmp_path / "val.txt").write_text("s0\ns1\n")
    monkeypatch.setitem(NETWORKS, "tiny", SMALL)  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    options = ["--dataset", "folder", "--img_root", "images", "--classes", "classes.txt", "--masks", "masks"]
    small = ["--network", "tiny", "--crop", "32", "--short_side", "32", "--batch_size", "2", "--max_iters", "3"]
    return [*options, *small, "--clip", str(weights), "--device", "cpu", "--out", "out"]


def test_a_run_from_the_command_line_and_its_repeat(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = [*data, "--val_split", "val.txt", "--gt_root", "masks", "--val_every", "3"]
    assert train_zsseg.main(call) == 0
    told = capsys.readouterr().out
    checkpoint = read_checkpoint(tmp_path / "out/weights.safetensors")
    assert checkpoint.about is not None and checkpoint.about.names == ("red", "blue")
    assert checkpoint.about.words["templates"] == "single" and checkpoint.about.iterations == 3
    log = read_log(tmp_path / "out")
    assert [line["iteration"] for line in log] == [1, 2, 3, 3] and f"seen {100 * log[-1]['miou_seen']:.1f}" in told
    evaluated = [*call, "--eval_only"]
    assert train_zsseg.main(evaluated) == 0
    assert f"mIoU {100 * log[-1]['miou']:.1f}, seen {100 * log[-1]['miou_seen']:.1f}" in capsys.readouterr().out
    before = {name: content for name, content in tree(tmp_path / "out").items() if "tensorboard" not in name}
    assert train_zsseg.main(call) == 0
    assert {name: content for name, content in tree(tmp_path / "out").items() if "tensorboard" not in name} == before
    assert train_zsseg.main([*call, "--seed", "1"]) == 2
    assert "seed 0 (now 1); pass --overwrite or another --out" in capsys.readouterr().err


def test_clips_own_factor_of_the_cosines_is_kept_with_the_weights(data: list[str], tmp_path: Path) -> None:
    state = openai_state(tiny_model())
    state["logit_scale"] = torch.tensor(13.0).log()
    torch.save(state, tmp_path / "clip.pt")
    own = [*data[: data.index("--clip")], "--clip", "clip.pt", "--device", "cpu", "--out", "out", "--logit_scale", "0"]
    assert train_zsseg.main(own) == 0
    assert read_checkpoint(tmp_path / "out/weights.safetensors").network.sizes.logit_scale == pytest.approx(13)


def test_learned_prompts_and_earlier_weights(data: list[str], tmp_path: Path) -> None:
    """The prompts are in the file that is written; a training goes on from another one's weights."""
    prompts = torch.randn(4, 64)
    save_file({"prefix_prompt": prompts}, tmp_path / "prompts.safetensors")
    assert train_zsseg.main([*data, "--prompts", "prompts.safetensors"]) == 0
    first = load_file(tmp_path / "out/weights.safetensors")
    assert first["clip_adapter.prompt_learner.prefix_prompt"].equal(prompts)
    assert train_zsseg.main([*data, "--pretrained", "out/weights.safetensors", "--out", "on", "--lr", "0"]) == 0
    again = load_file(tmp_path / "on/weights.safetensors")
    learner = {name for name in first if "prompt_learner" in name}
    assert again.keys() == first.keys() - learner and all(again[name].equal(first[name]) for name in again)


def test_images_without_a_class_to_learn_are_left_out(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = tmp_path / "masks_label_count.json"
    counts.write_text('{"s0.png": [0], "s1.png": [0, 2], "s2.png": [1]}')  # one is not counted
    assert train_zsseg.main([*data, "--max_iters", "1"]) == 0
    told = capsys.readouterr().out
    assert "3 images with masks" in told and "left out 1 images" in told
    counts.write_text("[1")
    assert train_zsseg.main([*data, "--out", "a"]) == 2
    assert "masks_label_count.json: not the labels of each mask" in capsys.readouterr().err


def test_mistakes_are_one_line(
    data: list[str], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def says(*more: str) -> str:
        capsys.readouterr()
        assert train_zsseg.main([*data, *more]) == 2
        told = capsys.readouterr().err.strip()
        assert "\n" not in told
        return told

    assert train_zsseg.main(data) == 0
    assert "--crop 40: expected a multiple of 32" in says("--crop", "40", "--out", "a")
    assert "no such" in says("--masks", "nowhere", "--out", "a")
    assert "expected a backbone's ImageNet weights" in says("--pretrained", "nothing.pth", "--out", "a")
    (tmp_path / "one.txt").write_text("red\n")
    only = ["--classes", "one.txt", "--out", "a"]
    for path in (tmp_path / "masks").iterdir():
        path.write_bytes(path.read_bytes())
    assert "holds label 2" in says(*only)
    (tmp_path / "three.txt").write_text("red\nblue\ngreen\n")
    another = says("--classes", "three.txt", "--out", "a", "--pretrained", "out/weights.safetensors")
    assert "weights.safetensors: of 2 classes, where this training has 3" in another
    state = load_file(tmp_path / "out/weights.safetensors")
    save_file({name: value for name, value in state.items() if "backbone" in name}, tmp_path / "part.safetensors")
    assert train_zsseg.main([*data, "--out", "part", "--pretrained", "part.safetensors"]) == 0
    state = {name: value for name, value in state.items() if "res3" not in name and "backbone" in name}
    save_file(state, tmp_path / "less.safetensors")
    assert "tensors are missing (res3.0.conv1.norm.bias" in says("--pretrained", "less.safetensors", "--out", "a")
    wide = torch.load(weights, weights_only=True)
    for name in ("text_projection", "visual.proj"):
        wide[name] = torch.ones(len(wide[name]), 48)
    torch.save(wide, tmp_path / "wide.pt")
    evaluated = ["--eval_only", "--activation", "quick_gelu", "--val_split", "val.txt", "--gt_root", "masks"]
    assert "queries have 32 numbers, the text embeddings of wide.pt 48" in says(*evaluated, "--clip", "wide.pt")
    torch.save(openai_state(tiny_model(seed=1)), tmp_path / "other.pt")
    assert "trained with another CLIP" in says(*evaluated, "--clip", "other.pt")
    assert "goes with --val_split" in says("--eval_only")
    assert "leave one of them out" in says("--prompts", "x", "--templates", "single", "--out", "a")
