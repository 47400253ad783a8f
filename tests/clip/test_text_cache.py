"""What comes from the cache is what the text tower gives, and nothing wrong with a cache file can be noticed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clip.load import Clip
from clip.model import Texts
from clip.text import encode_prompts
from clip.text_cache import cache_file, cached_prompts

PROMPTS = [["a cat.", "a kitten."], ["a dog."]]


def path_of(clip: Clip) -> Path:
    path = cache_file(clip, PROMPTS)
    assert path is not None
    return path


def test_the_second_time_nothing_is_encoded_and_no_text_tower_built(
    tiny_clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = encode_prompts(tiny_clip, PROMPTS)
    assert torch.equal(cached_prompts(tiny_clip, PROMPTS), wanted)
    monkeypatch.setattr(Texts, "tower", None)
    assert torch.equal(cached_prompts(tiny_clip, PROMPTS), wanted)


def test_other_words_weights_or_activation_are_other_files(tiny_clip: Clip) -> None:
    clips = [tiny_clip, replace(tiny_clip, fingerprint="f" * 16), replace(tiny_clip, activation="gelu")]
    names = {
        cache_file(clip, prompts) for clip in clips for prompts in (PROMPTS, [["a cat."], ["a kitten.", "a dog."]])
    }
    assert len(names) == 6


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 and then nothing",
        np.zeros((2, 31), np.float32),
        np.zeros((2, 32), np.float64),
        np.full((2, 32), np.nan, np.float32),
        np.array([[{}] * 32] * 2, object),
    ],
    ids=["empty", "truncated", "shape", "dtype", "nan", "objects"],
)
def test_a_damaged_file_is_made_again(content: bytes | np.ndarray, tiny_clip: Clip) -> None:
    wanted, path = encode_prompts(tiny_clip, PROMPTS), path_of(tiny_clip)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, embeddings=content)
    assert torch.equal(cached_prompts(tiny_clip, PROMPTS), wanted)
    with np.load(path, allow_pickle=False) as archive:
        assert np.array_equal(archive["embeddings"], wanted.numpy())


def test_a_folder_that_cannot_be_made_costs_nothing_but_the_time(
    tiny_clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert torch.equal(cached_prompts(tiny_clip, PROMPTS), encode_prompts(tiny_clip, PROMPTS))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
