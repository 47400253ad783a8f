"""Every part of every golden folder agrees; a folder that differs or holds more is told."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.parity.__main__ import FORMS, clip_of, main, parts_of
from benchmarks.parity.parts import Distances, Place, Row, Unequal
from tests.support import SHARED

FOLDERS = {form: "golden" if form == "golden" else f"golden_{form}" for form in FORMS}
LONG = {("dense", "maps"), ("dense", "text")}  # minutes; the other parts compare the attentions of these methods
PARTS = [
    pytest.param(form, part, marks=pytest.mark.long if (form, part) in LONG else pytest.mark.slow)
    for form in FORMS
    for part in parts_of(form)
]


@pytest.mark.parametrize(("form", "part"), PARTS)
def test_the_product_agrees_with_the_reference(form: str, part: str, voc_mini: Path) -> None:
    folder = SHARED / FOLDERS[form]
    if not folder.is_dir():
        pytest.skip(f"needs the reference data {folder}, which is not part of the project")
    rows = list(parts_of(form)[part].rows(Place(folder, voc_mini, clip_of(folder, None))))
    assert rows and all(row.agrees for row in rows), rows


def test_a_changed_value_and_an_unknown_file_are_told(
    golden: Path, voc_mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cams").mkdir()
    text = dict(np.load(golden / "text.npz"))
    np.savez(tmp_path / "text.npz", **text)
    call = [str(tmp_path), "--photos", str(voc_mini), "--clip", str(golden / "clip.pt")]
    assert main(call) == 0
    text["background"][3, 5] += 0.01
    np.savez(tmp_path / "text.npz", **text)
    capsys.readouterr()
    assert main(call) == 1 and "OUT" in capsys.readouterr().out
    shutil.copy(golden / "text.npz", tmp_path / "text.npz")
    (tmp_path / "cams/extra.json").write_text("{}")
    assert main(call) == 1 and "not compared: 1 files, first cams/extra.json" in capsys.readouterr().out


def test_a_folder_without_golden_files_is_one_line(
    voc_mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--photos", str(voc_mini)]) == 2
    assert "expected a folder of golden files" in capsys.readouterr().err
    assert main([str(tmp_path), "--photos", str(tmp_path)]) == 2
    assert "JPEGImages" in capsys.readouterr().err


def test_distances_find_the_largest_and_never_lose_nan_or_shape() -> None:
    apart = Distances()
    apart.add([1.0, np.nan], [1.5, np.nan])
    assert apart.row("x", 0.5) == Row("x", 2, 0.5, 0.5) and apart.row("x", 0.5).agrees
    apart.add([8.0], [10.0], relative=True)
    assert apart.largest == 0.5
    apart.add([np.nan], [1.0])
    assert not apart.row("x", 1e9).agrees
    other = Distances()
    other.add([1.0], [1.0, 2.0])
    assert not other.row("x", 1e9).agrees and not Distances().row("x", 1.0).agrees


def test_unequal_counts_the_share() -> None:
    unequal = Unequal()
    unequal.add([1, 2, 3, 4], [1, 2, 3, 5])
    assert unequal.row("x", 0.25).agrees and not unequal.row("x", 0.2).agrees
    unequal.add([1], [[1]])
    assert unequal.row("x", 0.4).distance == 0.4
