"""The image folder as `datasets` loads it, and the upload, which needs a token."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest

from common.errors import UserError
from dataset.mask_png import write_mask
from exports.files import Job, export
from exports.hf import check_push, push
from exports.table import format_of
from tests.exports.made import CONFIDENCE, LABELS, SIZE, exported, items, truth


@pytest.mark.slow
@pytest.mark.parametrize("copy", [False, True])
def test_datasets_loads_images_masks_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: bool) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    out, pairs, _ = exported("hf", tmp_path, copy=copy)
    data = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in data.items()} == {"train": 3, "validation": 1}
    rows = {row["id"]: row for row in data["train"]}
    for image_id, labels in truth(pairs).items():
        row = rows[image_id]
        assert row["image"].size == row["mask"].size == labels.shape[::-1] and row["image"].mode == "RGB"
        assert np.array_equal(row["mask"], labels)
        assert row["pixels"] == [int((labels == value).sum()) for value in range(4)]
        assert row["scores"] == [CONFIDENCE[value] if (labels == value).any() else 0 for value in range(4)]
    assert json.loads((out / "id2label.json").read_text()) == {str(value): name for value, name in enumerate(LABELS)}


def test_parts_of_different_kinds_load_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks that tell no confidence, background alone, and nothing but 255: the columns keep their types."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    train, val = items(tmp_path, ("a",), empty=False), items(tmp_path / "unseen", ("u", "v"))
    for (_, _, mask), value in zip(val, (0, 255)):
        write_mask(mask, np.full(SIZE, value, np.uint8), made_by="{}")
    export(format_of("hf"), Job(tmp_path / "out", LABELS, validated=True), {"train": train, "val": val})
    data = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert data["train"].features == data["validation"].features
    assert [row["scores"] for row in data["validation"]] == [[0.0] * 4] * 2


def test_no_token_no_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UserError, match=r"--push me/masks: no token .* `hf auth login`"):
        check_push("me/masks")
    with pytest.raises(UserError, match="not the name of a data set; expected USER/NAME"):
        check_push("no such/name of/one")


def test_the_folder_is_uploaded_as_a_private_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def record(name: str, **given: Any) -> Any:
        calls.append((name, given))
        return SimpleNamespace(
            create_repo=lambda repo, **more: record("create", repo=repo, **more) and "address",
            upload_folder=lambda **more: record("upload", **more),
        )

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **given: record("api", **given))
    assert push(tmp_path, "me/masks", "secret") == "address"
    assert [name for name, _ in calls] == ["api", "create", "upload"]
    assert calls[1][1] == {"repo": "me/masks", "repo_type": "dataset", "private": True, "exist_ok": True}
    assert calls[2][1] == {"repo_id": "me/masks", "repo_type": "dataset", "folder_path": tmp_path}


def test_a_failed_upload_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> Any:
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(huggingface_hub, "HfApi", refuse)
    with pytest.raises(UserError, match=r"not uploaded \(no route\); .* is written"):
        push(tmp_path, "me/masks", "secret")
