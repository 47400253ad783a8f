"""The reference's way of scoring, counted pixel by pixel, and the benchmark's rows."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import evaluation
from benchmarks.material import generated
from tests.support import Command


def test_plain_labels_and_confusion(tmp_path: Path) -> None:
    """Background scores: 0.1, 0.5, 0.75; squared 0.01, 0.25, 0.5625."""
    maps = np.array([[[0.9, 0.5, 0.25]], [[0.2, 0.4, 0.2]]], np.float16)
    np.savez(tmp_path / "a.npz", keys=np.array([4, 7]), maps=maps)
    assert evaluation.plain_labels(tmp_path / "a.npz", 1, "float32").tolist() == [[5, 0, 0]]
    assert evaluation.plain_labels(tmp_path / "a.npz", 2, "float16").tolist() == [[5, 5, 0]]
    Image.fromarray(np.array([[5, 8, 255]], np.uint8)).save(tmp_path / "a.png")
    counts = evaluation.plain_confusion(tmp_path / "a.png", np.array([[5, 5, 0]]))
    assert counts.shape == (21, 21) and counts.sum() == 2 and counts[5, 5] == counts[8, 5] == 1


@pytest.mark.parametrize("maps", ["highres", "attn_highres"])
def test_both_score_the_same_maps(maps: str, tmp_path: Path) -> None:
    photos = generated(3, tmp_path / "data", [(60, 90)])
    evaluation.write_maps(photos, tmp_path / "ours", tmp_path / "plain")
    ours = evaluation.ours(photos, tmp_path / "ours", maps, photos.ids, 1)
    plain = evaluation.plain(photos, tmp_path / "plain", maps, photos.ids, "float32")
    assert len(ours) == len(plain) == (10 if maps == "highres" else 2)
    assert plain.sum() == len(plain) * 3 * 60 * 90 and (plain[0] != plain[-1]).any()
    assert np.abs(ours[:, :, :-1] - plain).sum() <= 0.002 * plain.sum()
    assert 0 < plain[0].trace() < plain[0].sum()


def test_difference_is_the_largest_over_the_settings() -> None:
    right = np.diag([4, 4, *[0] * 19])
    wrong = right.copy()
    wrong[0, :2] = 2, 2  # IoU 2/4 and 4/6
    ours = np.pad(np.stack([right, right]), ((0, 0), (0, 0), (0, 1)))
    assert evaluation.miou_difference(ours, np.stack([right, wrong])) == pytest.approx(1 - (1 / 2 + 2 / 3) / 2)


def test_rows(command: Command, tmp_path: Path) -> None:
    options = ["--quick", "--photos", 1, "--turns", 1, "--threads", 1, "--json", tmp_path / "r.json"]
    ended = command("benchmarks.evaluation", *options)
    assert ended.code == 0, ended.err
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert [(row["maps"], row["settings"], row["threads"]) for row in rows] == [
        ("highres", 10, 1),
        ("attn_highres", 2, 1),
    ]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["plain_ms"] / row["ours_ms"]) and row["max_miou_difference"] < 1e-3
