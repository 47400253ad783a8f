"""Masks of seen and unseen classes, scores of predictions, pseudo labels, accuracies."""

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.parity.parts import Distances, Part, Parts, Place, Row, Unequal
from cli.datasets import spec_of
from dataset.mask_png import read_mask
from exports.sem_seg_json import records
from pipeline.steps.scores import confusion_matrix, scores_of, set_scores
from scripts import prepare_zsseg
from zsseg.accuracy import accuracies, hits
from zsseg.pseudo_labels import pseudo_labels

DATASETS = {"voc": "voc20", "coco": "cocostuff"}  # by the names of folders
FINE = 1e-6


def _prepared(place: Place, name: str, out: Path) -> None:
    """Run the command on the annotations of a folder."""
    raw = place.folder / f"prepare/{name}_in"
    lists = sorted(raw.glob("*.txt"))
    splits = ["--split", *(f"{path.stem}={path}" for path in lists)] if lists else []
    with contextlib.redirect_stdout(io.StringIO()):
        code = prepare_zsseg.main([DATASETS[name], "--raw", str(raw), "--out", str(out), *splits])
    if code:
        raise ValueError(f"{raw}: scripts.prepare_zsseg ended with {code}")


def prepare(place: Place) -> Iterator[Row]:
    """Masks that are written and those that are not, their pixels, their labels."""
    notes = json.loads((place.folder / "prepare/notes.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        for name in DATASETS:
            out, wanted = Path(folder) / name, place.folder / f"prepare/{name}_out"
            _prepared(place, name, out)
            pixels, files, counts = Unequal(), Unequal(), Unequal()
            for path in sorted(wanted.rglob("*.png")):
                ours = out / path.relative_to(wanted)
                pixels.add(read_mask(ours) if ours.is_file() else [], read_mask(path))
            files.add(*(sorted(str(p.relative_to(root)) for p in root.rglob("*.png")) for root in (out, wanted)))
            for path in sorted(wanted.glob("*.json")):
                found, given = (json.loads((root / path.name).read_text("utf-8")) for root in (out, wanted))
                keys = sorted(given)
                counts.add([sorted(found)], [keys])
                counts.add(*([label for key in keys for label in labels.get(key, ())] for labels in (found, given)))
            if name == "voc":  # what the published tool leaves when it stops is part of what ours writes
                left = notes["voc_parallel_run_files"]
                there = [(out / part / file).is_file() for part, names in left.items() for file in names]
                files.add(there, [True] * len(there))
            yield pixels.row(f"prepared masks, {name}", 0)
            yield files.row(f"which of them there are, {name}", 0)
            yield counts.row(f"labels of masks, {name}", 0)


def _percent(value: float | None) -> float:
    return float("nan") if value is None else 100 * value


def evaluate(place: Place, name: str) -> Iterator[Row]:
    """Scores of predictions, by class and by set of classes; records of the first one."""
    folder = place.folder / "evaluate" / name
    meta, wanted = (json.loads((folder / f"{file}.json").read_text("utf-8")) for file in ("meta", "metrics"))
    names, spec = meta["names"], spec_of(DATASETS[name])
    labels = sorted(folder.glob("pred*.png"))
    confusion = np.zeros((len(names), len(names) + 1), np.int64)
    for path in labels:
        truth = read_mask(folder / path.name.replace("pred", "gt"))
        confusion += confusion_matrix(truth, read_mask(path), len(names))
    scores = scores_of(confusion, "union")
    # detectron2 shows no IoU where the ground truth has none of a class, but counts it in the mean
    shown = [None if accuracy is None else iou for iou, accuracy in zip(scores.iou, scores.accuracy)]
    found: dict[str, float | None] = {"mIoU": scores.miou, "fwIoU": scores.weighted_iou}
    found.update(mACC=scores.mean_accuracy, pACC=scores.pixel_accuracy)
    found.update((f"IoU-{key}", value) for key, value in zip(names, shown))
    found.update((f"ACC-{key}", value) for key, value in zip(names, scores.accuracy))
    sets, same = spec.label_sets, Unequal()
    for key, members in meta["sets"].items():
        same.add(list(sets.get(key, ())), members)
        one = set_scores(confusion, sets.get(key, ()), "union")
        found[f"mIoU-{key}"], found[f"mIoU-un{key}"], found[f"hIoU-{key}"] = one.miou, one.others_miou, one.harmonic
        found[f"pAcc-{key}"], found[f"pAcc-un{key}"] = one.pixel_accuracy, one.others_pixel_accuracy
    same.add([int(index not in spec.unseen) for index in range(len(names))], meta["seen"])
    same.add(list(spec.classes), names)
    distances = Distances()
    for key, value in wanted.items():
        distances.add(_percent(found.get(key)), np.nan if value is None else value)
    yield same.row(f"classes and sets, {name}", 0)
    yield distances.row(f"scores in percent, {name}", FINE)
    equal, numbers = Unequal(), spec.numbers or range(len(names))
    given = json.loads((folder / "rle_predictions.json").read_text("utf-8"))
    files = {path: f"{path.stem.replace('pred', 'im')}.jpg" for path in labels}
    ours = [record for path, file in files.items() for record in records(read_mask(path), file, numbers)]
    equal.add(*([json.dumps(one, sort_keys=True) for one in some] for some in (ours[: len(given)], given)))
    yield equal.row(f"records of predictions, {name}", 0)
    if (folder / "pseudo_scores.npz").exists():
        yield _pseudo(folder, spec.unseen)


def _pseudo(folder: Path, unseen: tuple[int, ...]) -> Row:
    """The published value of rejected pixels; of the first map."""
    scores, truth = np.load(folder / "pseudo_scores.npz")["scores"], read_mask(folder / "gt0.png").astype(np.int64)
    seen = [index for index in range(len(scores)) if index not in unseen]
    equal = Unequal()
    for path in sorted(folder.glob("pseudo_prior*.npz")):
        prior, threshold = path.stem.removeprefix("pseudo_prior").split("_thr")
        ours = pseudo_labels(scores, truth, seen, prior == "1", float(threshold), rejected=len(scores))
        equal.add(ours, np.load(path)["labels"])
    return equal.row("pseudo labels", 0)


def classification(place: Place) -> Iterator[Row]:
    """Accuracies of regions."""
    given = np.load(place.folder / "evaluate/classification.npz")
    wanted = json.loads((place.folder / "evaluate/classification.json").read_text(encoding="utf-8"))
    classes = json.loads((place.folder / "classes.json").read_text(encoding="utf-8"))
    base = [index for index, seen in enumerate(classes["seen"]) if seen]
    found = accuracies(hits(given["logits"], given["targets"]), classes["names"], {"base": base})
    distances = Distances()
    for key, value in wanted.items():
        distances.add(_percent(found.get(key)), value)
    yield distances.row("accuracies of regions in percent", 1e-5)  # the reference's are float32


PARTS: Parts = {
    "prepare": Part(
        ("prepare/notes.json", "prepare/*_in/*", "prepare/*_in/*/*", "prepare/*_out/*", "prepare/*_out/*/*"), prepare
    ),
    "evaluate voc": Part(("evaluate/voc/*",), lambda place: evaluate(place, "voc")),
    "evaluate coco": Part(("evaluate/coco/*",), lambda place: evaluate(place, "coco")),
    "classification": Part(("evaluate/classification.*",), classification),
}
