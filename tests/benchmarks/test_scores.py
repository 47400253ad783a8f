"""The CAM files of the transcription can be read by the stages, and a row tells the largest difference."""

import json
from pathlib import Path

import pytest

from benchmarks import scores
from pipeline.files.cam_file import load_cams
from toyworld.layout import write_dataset


def test_the_transcriptions_files_are_read_by_the_stages(tmp_path: Path) -> None:
    (image_id,) = write_dataset(tmp_path / "data", 3, 1)
    scores.plain_cams(tmp_path / "data", tmp_path / "cams")
    for cam_type in ("highres", "attn_highres"):
        keys, maps = load_cams(tmp_path / "cams" / f"{image_id}.npz", cam_type, 8)
        assert len(keys) == len(maps) > 0 and float(maps.max()) > 0.9


def test_a_row_tells_the_largest_difference() -> None:
    plain = {"cam": 0.5, "attn": 0.6, "cam_crf": 0.7, "attn_crf": 0.75, "coverage": 0.1}
    ours = {**plain, "attn": 0.61, "cam_crf": 0.68, "coverage": 0.9}
    row = scores.row_of("x", ours, plain)
    assert row["largest"] == pytest.approx(2.0) and row["attn"] == pytest.approx(61.0)


@pytest.mark.slow
def test_every_way_has_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scores.main(["--scenes", "1", "--threads", "1", "--json", str(tmp_path / "s.json")]) == 0
    rows = json.loads((tmp_path / "s.json").read_text())["rows"]
    assert [row["way"] for row in rows] == [
        "plain transcription",
        *scores.WAYS,
    ]
    assert "float16" in capsys.readouterr().out
