"""Photos of VOC as `--dataset voc12` from their XML, and as a folder with other label formats: the same maps."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from dataset.readers.voc_xml import read_names
from dataset.split_file import read_split
from tests.support import Command
from voc12.spec import SPEC


@pytest.fixture(scope="module")
def own(voc_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC's words as a classes file, and the labels of the photos as CSV (shuffled) and JSON Lines."""
    folder = tmp_path_factory.mktemp("own")
    lines = [f"{name}: {'; '.join(prompts)}" for name, prompts in zip(SPEC.classes, SPEC.prompts)]
    (folder / "classes.txt").write_text("\n".join([*lines, "[background]", *SPEC.background_prompts]))
    labels = {key: read_names(voc_mini / f"Annotations/{key}.xml") for key in ids_of(voc_mini)}
    with (folder / "labels.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["image", "labels"])
        rows.writerows((f"{key}.jpg", ";".join(names)) for key, names in reversed(labels.items()))
    with (folder / "labels.jsonl").open("w") as stream:
        stream.writelines(json.dumps({"image": key, "labels": names}) + "\n" for key, names in labels.items())
    (folder / "split.txt").write_text("".join(f"{key}\n" for key in labels))
    return folder


def ids_of(voc_mini: Path) -> list[str]:
    return sorted(read_split(voc_mini / "ImageSets/Segmentation/train.txt"))[:4]


def maps(folder: Path) -> dict[str, dict[str, bytes]]:
    """The bytes of every array of every CAM file, without the record of how it was made."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            found[path.stem] = {
                name: repr((arrays[name].dtype, arrays[name].shape)).encode() + arrays[name].tobytes()
                for name in arrays.files
                if name != "made_by"
            }
    return found


@pytest.mark.slow
def test_the_same_maps_bit_for_bit(voc_mini: Path, golden: Path, own: Path, command: Command, tmp_path: Path) -> None:
    common = ["--img_root", voc_mini / "JPEGImages", "--split_file", own / "split.txt", "--model", golden / "clip.pt"]
    common += ["--device", "cpu", "--cam_out_dir"]
    ended = command("generate_cams", "--dataset", "voc12", *common, tmp_path / "xml")
    assert ended.code == 0, ended.err
    wanted = maps(tmp_path / "xml")
    assert list(wanted) == ids_of(voc_mini)
    for labels in (own / "labels.csv", own / "labels.jsonl", voc_mini / "Annotations"):
        argv = ["--dataset", "folder", "--classes", own / "classes.txt", "--labels", labels]
        ended = command("generate_cams", *argv, *common, tmp_path / labels.name)
        assert ended.code == 0, ended.err
        assert maps(tmp_path / labels.name) == wanted, labels
