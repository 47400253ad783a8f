"""Weight files that are broken, of another kind or malicious: named in one line, and nothing in them is ever run."""

import builtins
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from clip.archive import read_weights
from common.errors import UserError
from tests.support import openai_state, tiny_model

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return openai_state(tiny_model(layers=1, text_layers=1))


class Reduced:
    """Pickles to a call of a function with arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple]:
        return self.call


def attacks(marker: Path) -> dict[str, Reduced]:
    write = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": Reduced(os.system, f"touch '{marker}'"),
        "builtins.eval": Reduced(builtins.eval, write),
        "open": Reduced(builtins.open, str(marker), "w"),
        "getattr": Reduced(getattr, "text", "upper"),
    }


def as_torchscript(path: Path, data: bytes) -> None:
    """A zip file with all marks of a TorchScript archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"data.pkl": data, "constants.pkl": pickle.dumps(()), "version": b"3\n"}.items():
            archive.writestr(f"archive/{name}", content)


@pytest.mark.parametrize("form", ["torch.save", "old torch.save", "beside weights", "bare pickle", "TorchScript"])
@pytest.mark.parametrize("attack", list(attacks(Path("x"))))
def test_a_pickle_that_calls_something_is_refused_and_not_run(
    tmp_path: Path, state: State, attack: str, form: str
) -> None:
    marker, path = tmp_path / "executed", tmp_path / "evil.pt"
    bomb = attacks(marker)[attack]
    if form == "TorchScript":
        as_torchscript(path, pickle.dumps(bomb))
    elif form == "bare pickle":
        path.write_bytes(pickle.dumps(bomb, protocol=2))
    else:
        content = {**state, "x": bomb} if form == "beside weights" else bomb
        torch.save(content, path, _use_new_zipfile_serialization=form != "old torch.save")
    with pytest.raises(UserError, match=r"evil\.pt: (refused|cannot be read)"):
        read_weights(path)
    assert not marker.exists()


def test_the_attacks_would_work(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    marker = tmp_path / "executed"
    for attack in ("os.system", "builtins.eval", "open"):
        pickle.loads(pickle.dumps(attacks(marker)[attack]))  # noqa: S301
        assert marker.exists()
        marker.unlink()


def broken_files(state: State) -> dict[str, bytes]:
    stream = io.BytesIO()
    torch.save(state, stream)
    whole, tensors = stream.getvalue(), safetensors.torch.save({"a": torch.zeros(100)})
    return {
        "half.pt": whole[: len(whole) // 2],
        "tail.pt": whole[:-20],
        "empty.pt": b"",
        "random.pt": bytes(torch.randint(0, 256, (4000,), generator=torch.Generator().manual_seed(0)).tolist()),
        "zeros.pt": bytes(4000),
        "text.pt": b"hello, this is a text file\n",
        "page.pt": b"<!DOCTYPE html><html>404</html>\n",
        "pointer.pt": b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 10\n",
        "cut.safetensors": tensors[:-20],
        "text.safetensors": b"hello, this is a text file\n",
        "empty.safetensors": b"",
    }


def test_a_broken_file_is_named_in_one_line(tmp_path: Path, state: State, recwarn: pytest.WarningsRecorder) -> None:
    for name, content in broken_files(state).items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as caught:
            read_weights(tmp_path / name)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / name}: ") and "\n" not in message
        assert ("expected an OpenAI" in message or "fetch it again" in message) and "would run code" not in message
    assert not recwarn.list  # a warning would be a second line on the terminal


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([1, 2], "holds a list"),
        (torch.zeros(3), "holds a Tensor"),
        ({}, "no tensors"),
        ({"a": 1}, "no tensors"),
        ({"layer1.weight": torch.zeros(2), "fc.bias": torch.zeros(2)}, r"found fc\.bias, layer1\.weight"),
        ({"state_dict": {}}, "no tensors"),
        ({"visual.conv1.weight": torch.zeros(1)}, "not the weights of a CLIP"),
    ],
)
def test_other_content_is_told_apart(tmp_path: Path, content: object, complaint: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match=rf"w\.pt: .*{complaint}"):
        read_weights(tmp_path / "w.pt")


def test_a_file_of_another_kind_is_told_by_its_first_bytes(tmp_path: Path, state: State) -> None:
    kinds = {
        "page.pt": "a web page; download the file itself",
        "pointer.pt": "a pointer of Git LFS; fetch the file itself with `git lfs pull`",
        "empty.pt": "an empty file; fetch it again",
        "empty.safetensors": "an empty file; fetch it again",
        "zeros.pt": "holds zeros alone; fetch it again",
        "half.pt": "cut short; fetch it again",
    }
    for name, kind in kinds.items():
        (tmp_path / name).write_bytes(broken_files(state)[name])
        with pytest.raises(UserError, match=kind):
            read_weights(tmp_path / name)


class Whole(torch.nn.Module):
    """Saved whole, as `torch.save(model, path)` does."""


def test_a_whole_pickled_model_is_refused_by_its_class_with_the_remedy(tmp_path: Path) -> None:
    torch.save({"model": Whole()}, tmp_path / "w.pt")
    with pytest.raises(
        UserError, match=r"refused, it holds more than tensors \(.*Whole\).*save its state_dict\(\) alone"
    ):
        read_weights(tmp_path / "w.pt")


def test_a_missing_file_an_empty_folder_and_a_name_of_hugging_face_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "cache" / "snapshots").mkdir(parents=True)
    (tmp_path / "two").mkdir()
    for name in ("a.pt", "b.pt"):
        (tmp_path / "two" / name).touch()
    for name, complaint in {
        "w.pt": "w.pt: no such weight file",
        "empty": "empty: no weight file there",
        "cache": "cache: a cache folder of Hugging Face; pass the folder below its snapshots/",
        "two": r"two: several weight files \(a.pt, b.pt\); pass one of them",
        "x" * 300: "no such weight file",
        "openai/clip-vit-base-patch16": "no such file or folder; for the model of this name on Hugging Face: "
        "`hf download openai/clip-vit-base-patch16 --local-dir weights/clip-vit-base-patch16`",
        "hf-hub:laion/CLIP-ViT-B-16": "`hf download laion/CLIP-ViT-B-16 --local-dir weights/CLIP-ViT-B-16`",
    }.items():
        with pytest.raises(UserError, match=complaint) as caught:
            read_weights(Path(name))
        assert "\n" not in str(caught.value)
