"""The image folder as `datasets` loads it, and the upload, which needs a token."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest

from common.errors import UserError
from exports.hf import check_push, push
from tests.exports.made import CONFIDENCE, LABELS, exported, truth


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
        values = [LABELS.index(name) for name in row["labels"]]
        assert set(values) == set(np.unique(labels).tolist()) - {0, 255}
        assert row["scores"] == [CONFIDENCE[value] for value in values]


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
