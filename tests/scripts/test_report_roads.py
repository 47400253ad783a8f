"""The whole road to the page on data that is not laid out as VOC: own photos, COCO, labels from CLIP."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coco14.spec import CLASSES
from dataset.mask_png import write_mask
from tests.report_world import count, kept_share, parsed, shown, texts
from tests.scripts.test_prepare_coco14 import CATEGORIES, IDS
from tests.support import Command, Ended, photo

SIZE = (24, 40)  # (H, W) of every photo once it is upright
OWN = {  # file, EXIF orientation, labels
    "Küste/Tag 1/Bild ä.jpg": (6, "dog;cat"),
    "Küste/x.y.jpeg": (3, "cat"),
    "b b.png": (None, "dog"),
    "c/#1.webp": (None, "traffic light"),
}
LYING = {6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180}  # how a camera stores what is to be turned back
FOLDER = ("--dataset", "folder", "--img_root", "photos", "--classes", "classes.txt")
COCO = ("--dataset", "coco14", "--img_root", "train2014", "--split_file", "train.txt")
MADE = ("--cam_out_dir", "cams", "--masks", "masks", "--out", "report.html")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photos in folders, labels as CSV and random ground truth, in the working folder."""
    monkeypatch.chdir(tmp_path)
    rows = ["image,labels"]
    for seed, (name, (orientation, labels)) in enumerate(OWN.items()):
        path, exif, picture = Path("photos", name), Image.Exif(), Image.fromarray(photo(SIZE, seed))
        path.parent.mkdir(parents=True, exist_ok=True)
        if orientation:
            exif[0x0112], picture = orientation, picture.transpose(LYING[orientation])
        picture.save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {"quality": 95}))
        rows.append(f"{name},{labels}")
        truth = np.random.default_rng(seed).choice(np.array([0, 1, 2, 255], np.uint8), SIZE)
        write_mask(Path("SegmentationClass", name).with_suffix(".png"), truth)
    Path("labels.csv").write_text("\n".join(rows), encoding="utf-8")
    Path("classes.txt").write_text("dog\ncat\ntraffic light: light; lamp\n[background]\nsky\n")
    return tmp_path


def ids() -> list[str]:
    return [str(Path(name).with_suffix("")) for name in OWN]


def stages(command: Command, weights: Path, data: tuple[str, ...], labels: tuple[str, ...], *crf: str) -> None:
    """CAMs and masks in the folders of MADE."""
    model = ("--model", weights, "--device", "cpu")
    ended = command("generate_cams", *data, *labels, *model, "--cam_out_dir", "cams")
    assert ended.code == 0, ended.err
    read = () if "clip" in labels else labels
    ended = command(
        "eval_cam_with_crf", *data, *read, "--cam_out_dir", "cams", "--pseudo_mask_save_path", "masks", *crf
    )
    assert ended.code == 0, ended.err


def report(command: Command, *options: str) -> Ended:
    ended = command("scripts.report", *options, *MADE)
    assert ended.code == 0 and ended.err == "", ended.err
    return ended


def on_page() -> dict[str, dict[str, Any]]:
    """What the page knows of its images, by id."""
    data = json.loads(parsed(Path("report.html")).get_element_by_id("data").text)
    return {record["id"]: record for record in data["images"]}


def tile(index: int, number: int) -> Image.Image:
    text = parsed(Path("report.html")).get_element_by_id(f"tiles-{index}").text
    return Image.open(io.BytesIO(base64.b64decode(text.split()[number]))).convert("RGB")


def test_own_photos_without_truth(command: Command, own: Path, weights: Path, quick_crf: None) -> None:
    stages(command, weights, FOLDER, ("--labels", "labels.csv"))
    assert "4 images (0 scored)" in report(command, *FOLDER, "--labels", "labels.csv").out
    page, images = parsed(Path("report.html")), on_page()
    assert set(images) == set(ids()) and texts(page.cssselect("h1")) == ["Pseudo masks of photos: 4 images"]
    assert "all images in photos" in texts(page.cssselect(".from"))[0]
    names = ["background", "dog", "cat", "traffic light"]
    assert texts(page.cssselect("#scores tbody th")) == names and not page.cssselect("#confusion")
    labels = {image_id: [names[label] for label in images[image_id]["cams"]] for image_id in images}
    given = {str(Path(name).with_suffix("")): set(text.split(";")) for name, (_, text) in OWN.items()}
    assert {image_id: set(found) for image_id, found in labels.items()} == given


def test_own_photos_stand_upright(command: Command, own: Path, weights: Path, quick_crf: None) -> None:
    stages(command, weights, FOLDER, ("--labels", "labels.csv"))
    report(command, *FOLDER)
    for seed, image_id in enumerate(ids()):
        record = on_page()[image_id]
        assert (record["height"], record["width"]) == SIZE and not record["problem"]
        seen, taken = np.asarray(tile(record["index"], 0), np.int16), photo(SIZE, seed).astype(np.int16)
        assert seen.shape == taken.shape and np.abs(seen - taken).mean() < 10
        assert np.abs(seen - taken[::-1, ::-1]).mean() > 20


def test_own_photos_with_truth_have_its_scores(command: Command, own: Path, weights: Path, quick_crf: None) -> None:
    stages(command, weights, FOLDER, ("--labels", "labels.csv"), "--confidence", "0.5")
    truth = ("--labels", "labels.csv", "--gt_root", "SegmentationClass")
    assert "4 images (4 scored)" in report(command, *FOLDER, *truth, "--curve", "2").out
    counted, page = count(own, ids()), parsed(Path("report.html"))  # type: ignore[arg-type]
    rows = [texts(list(row))[1] for row in page.cssselect("#scores table.sortable tbody tr")]
    assert rows == [shown(counted.iou(label)) for label in range(4)] and rows[3] == "–" and rows[1] != "–"
    assert "Not in the ground truth, left out of the means: traffic light." in page.text_content()
    assert "run again on 2 images" in page.text_content()
    for image_id, record in on_page().items():
        assert record["kept"] == pytest.approx(kept_share(own, image_id), abs=1e-6)


def test_classes_that_changed_since_are_refused(command: Command, own: Path, weights: Path, quick_crf: None) -> None:
    """Otherwise every mask would be shown under another name."""
    stages(command, weights, FOLDER, ("--labels", "labels.csv"))
    Path("classes.txt").write_text("cat\ndog\ntraffic light: light; lamp\n[background]\nsky\n")
    for name, out in (("scripts.report", MADE), ("scripts.preview", ("--cam_out_dir", "cams", "--out", "p.png"))):
        ended = command(name, *FOLDER, *out)
        assert ended.code == 2 and ended.err.startswith("error: cams: made for other classes")
        assert ended.err.count("\n") == 1 and not Path(out[-1]).exists()


@pytest.mark.slow
def test_labels_of_clip(command: Command, own: Path, weights: Path, quick_crf: None) -> None:
    stages(command, weights, FOLDER, ("--labels", "clip"))
    tags = {}
    for line in Path("cams/tags.txt").read_text(encoding="utf-8").splitlines():
        image_id, _, labels = line.removeprefix('"').partition('" ' if line.startswith('"') else " ")
        tags[image_id] = {int(index) + 1 for index in labels.split()}
    assert set(tags) == set(ids()) and all(tags.values())
    report(command, *FOLDER)
    images = on_page()
    assert {image_id: set(record["cams"]) for image_id, record in images.items()} == tags
    report(command, *FOLDER, "--labels", "cams/tags.txt")
    assert on_page() == images
    ended = command("scripts.report", *FOLDER, "--labels", "clip", *MADE)
    assert ended.code == 2 and "leave --labels out here, or give the tags.txt it wrote" in ended.err


# --- COCO -----------------------------------------------------------------------------------------


def coco(command: Command) -> list[list[int]]:
    """Three images of two objects each, prepared from an instances file; the class indices of each."""
    indices = [[0, 79], [25, 61], [62, 63]]
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    Path("train2014").mkdir()
    for number, pair in enumerate(indices):
        name = f"COCO_train2014_{number:012d}"
        Image.fromarray(photo(SIZE, number)).save(f"train2014/{name}.jpg")
        images.append({"id": number, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]})
        for at, index in enumerate(pair):
            box = [[2 + 20 * at, 3, 18 + 20 * at, 3, 18 + 20 * at, 20, 2 + 20 * at, 20]]
            item = {"id": len(annotations), "image_id": number, "category_id": IDS[index], "iscrowd": 0}
            annotations.append(item | {"segmentation": box})
    Path("i.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    outputs = ("--masks_out", "SegmentationClass", "--split_out", "train.txt")
    assert command("scripts.prepare_coco14", "--annotations", "i.json", *outputs).code == 0
    return indices


def test_coco_has_81_labels_everywhere(
    command: Command, tmp_path: Path, weights: Path, quick_crf: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    indices = coco(command)
    stages(command, weights, COCO, ())
    assert "3 images (0 scored)" in report(command, *COCO).out
    page, images = parsed(Path("report.html")), on_page()
    assert texts(page.cssselect("#scores tbody th")) == ["background", *CLASSES]
    assert [{label - 1 for label in images[key]["cams"]} for key in sorted(images)] == [set(pair) for pair in indices]
    assert "3 images (3 scored)" in report(command, *COCO, "--gt_root", "SegmentationClass").out
    page, shown_labels = parsed(Path("report.html")), sorted(index + 1 for pair in indices for index in pair)
    assert len(page.cssselect("#confusion tbody tr")) == 81 and len(page.cssselect("#confusion thead th")) == 82
    rows = [texts(list(row))[:2] for row in page.cssselect("#scores table.sortable tbody tr")]
    scored = {name for name, iou in rows if iou != "–"}
    assert scored == {"background", *(CLASSES[label - 1] for label in shown_labels)}
    legend = texts(page.cssselect(".legend")[0].cssselect("li"))
    assert legend == ["background", *(CLASSES[label - 1] for label in shown_labels), "ignored (255)"]
