"""Checkpoints: nothing of a file is lost, and what does not fit is told in one line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.errors import UserError
from tests.zsseg.small import SIZES, small_maskformer
from zsseg.checkpoint import About, read_checkpoint, with_pixel_decoder, write_checkpoint

ABOUT = About(SIZES, ("red", "blue"), {"clip": "0123"}, 7)
HEAD = "sem_seg_head.pixel_decoder."
SIGNALS = ("start_signal", "dot_signal", "end_signal", "pad_signal")
PROMPTS = {"prefix_prompt": torch.ones(4, 16), **dict.fromkeys(SIGNALS, torch.zeros(1, 16))}


def written(path: Path) -> dict[str, Tensor]:
    """A file of ours, and its tensors."""
    write_checkpoint(path, small_maskformer(), ABOUT)
    return load_file(path)


def frozen(**more: object) -> dict[str, Tensor]:
    """The tensors of a network as published ones are: with a frozen backbone."""
    from dataclasses import replace

    return small_maskformer(sizes=replace(SIZES, norm="frozen"), **more).state_dict()


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    state = written(tmp_path / "a.safetensors")
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    assert checkpoint.about == ABOUT and checkpoint.network.sizes == SIZES and not checkpoint.clip
    assert not checkpoint.network.training
    found = checkpoint.network.state_dict()
    assert found.keys() == state.keys() and all(found[name].equal(value) for name, value in state.items())


@pytest.mark.parametrize("form", ["safetensors", "plain", "detectron2"])
def test_sizes_of_a_published_file_come_from_its_shapes(tmp_path: Path, form: str) -> None:
    """Also the prompts of both adapters; CLIP's tensors are kept apart."""
    state = frozen(region_prompts=PROMPTS)
    state["clip_adapter.clip_model.ln_final.weight"] = torch.ones(3)
    path = tmp_path / ("a.safetensors" if form == "safetensors" else "a.pth")
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state, "iteration": 5} if form == "detectron2" else state, path)
    checkpoint = read_checkpoint(path, heads=2)
    assert checkpoint.about is None and list(checkpoint.clip) == ["ln_final.weight"]
    found = checkpoint.network.state_dict()
    assert found.keys() == state.keys() - {"clip_adapter.clip_model.ln_final.weight"}
    assert all(value.equal(state[name]) for name, value in found.items())
    assert found["_region_clip_adapter.prompt_learner.prefix_prompt"].shape == (4, 16)


def test_older_names_get_the_pixel_decoder_and_no_name_gets_it_twice(tmp_path: Path) -> None:
    state = frozen()
    older = {name.replace(HEAD, "sem_seg_head."): value for name, value in state.items()}
    assert older.keys() != state.keys()
    for names in (older, state):
        assert with_pixel_decoder(names).keys() == state.keys()
        save_file(names, tmp_path / "a.safetensors")
        found = read_checkpoint(tmp_path / "a.safetensors", heads=2).network.state_dict()
        assert all(found[name].equal(value) for name, value in state.items())


def without(state: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: without(s, "layer_1.norm"), r"2 missing \(sem_seg_head.pixel_decoder.layer_1.norm.bias, sem"),
        (lambda s: s | {"sem_seg_head.pixel_decoder.pixel_decoder.x": torch.ones(1)}, r"1 left over \(sem_seg"),
        (lambda s: s | {f"{HEAD}layer_1.weight": torch.ones(2, 2, 3, 3)}, r"layer_1.weight has the shape \(2, 2, 3"),
        (lambda s: s | {f"{HEAD}layer_4.weight": torch.tensor(1.0)}, "do not have the shapes of a MaskFormer"),
        (lambda s: without(s, HEAD), "layer_4.weight is missing"),
        (lambda s: without(s, "clip_adapter"), "a plain MaskFormer, whose classes are no texts"),
        (lambda s: {"a": torch.ones(1)}, r"not the weights of a MaskFormer \(found a\)"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(tmp_path: Path, change: object, words: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file({name: value.contiguous() for name, value in change(frozen()).items()}, path)  # type: ignore[operator]
    with pytest.raises(UserError, match=words) as raised:
        read_checkpoint(path, heads=2)
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)


class Runs:
    """What a pickle would run on loading."""

    def __reduce__(self) -> tuple:
        return print, ("run",)


def test_files_of_other_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.safetensors"
    state, header = frozen(), json.dumps({"format": 99})
    save_file(state, path, {"zsseg": header})
    with pytest.raises(UserError, match="another version of this code"):
        read_checkpoint(path)
    save_file(state, path, {"zsseg": "[1"})
    with pytest.raises(UserError, match="header does not say which network"):
        read_checkpoint(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot be read as weights"):
        read_checkpoint(path)
    with pytest.raises(UserError, match="no such weight file"):
        read_checkpoint(tmp_path / "b.pth")
    torch.save({"model": state, "more": Runs()}, tmp_path / "b.pth")
    with pytest.raises(UserError, match="would run code on loading"):
        read_checkpoint(tmp_path / "b.pth")
    assert "run" not in capsys.readouterr().out
    torch.save([1], tmp_path / "b.pth")
    with pytest.raises(UserError, match="holds a list"):
        read_checkpoint(tmp_path / "b.pth")
