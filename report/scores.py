"""Scores for people (a table) and for programs (JSON)."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from common.files import write_text
from dataset.spec import DatasetSpec
from pipeline.steps.scores import Scores, scores_of, set_scores, split_scores

TITLES = {
    "cam": "unrefined maps (of CLIP-ES: the CAM)",
    "attn": "final maps (of CLIP-ES: the CAM refined by the affinity)",
    "crf": "after the CRF",
    "masks": "written masks (255 counts as not predicted)",
}
ABSENT_RULE = {
    "truth": "classes that the ground truth never shows are left out of the means",
    "union": "classes that are neither shown nor predicted are left out of the means, those only predicted have IoU 0",
}
LEFT_OUT = {"truth": "not in the ground truth", "union": "neither in the ground truth nor predicted"}
COLUMNS = 3  # of the table of classes
LISTED = 20  # names of classes that are left out
STAGES = {"highres": "cam", "attn_highres": "attn"}


def summary(
    stage: str, spec: DatasetSpec, scores: Scores, images: int, split: Path, confusion: np.ndarray, **more: Any
) -> dict[str, Any]:
    """The JSON form of scores. Shares are fractions of 1; a class that does not count has IoU null.

    Of a data set with a seen/unseen split, the means over both sets of classes too, null where none of a set counts.
    """
    result: dict[str, Any] = {
        "stage": stage,
        "dataset": spec.name,
        "split": str(split),
        "images": images,
        "miou": scores.miou,
    }
    if spec.unseen:
        means = split_scores(scores.iou, spec.unseen_labels)
        result |= {"miou_seen": means.seen, "miou_unseen": means.unseen, "hiou": means.harmonic}
        sets = {name: set_scores(confusion, labels, scores.absent) for name, labels in spec.label_sets.items()}
        result["sets"] = {name: asdict(of_set) for name, of_set in sets.items()}
    return result | {
        "classes": dict(zip(spec.label_names, scores.iou)),
        "accuracies": dict(zip(spec.label_names, scores.accuracy)),
        "pixel_accuracy": scores.pixel_accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "weighted_iou": scores.weighted_iou,
        "coverage": scores.coverage,
        "precision": scores.precision,
        "pixels": int(confusion.sum()),
        "absent_classes": [name for name, iou in zip(spec.label_names, scores.iou) if iou is None],
        "absent": scores.absent,
        "absent_rule": ABSENT_RULE[scores.absent],
        **more,
    }


def swept_summary(
    stage: str,
    spec: DatasetSpec,
    confusions: np.ndarray,
    backgrounds: Sequence[float],
    images: int,
    split: Path,
    absent: str = "truth",
    **more: Any,
) -> dict[str, Any]:
    """Like `summary`, for the best of (S, C, C+1) confusion matrices, one a background setting."""
    all_scores = [scores_of(confusion, absent) for confusion in confusions]
    best = int(np.argmax([scores.miou for scores in all_scores]))
    kind = "constant score" if backgrounds[best] < 1 else "exponent of (1 - max cam)"
    background = {
        "kind": kind,
        "value": backgrounds[best],
        "chosen_on": "the ground truth",
        "miou_by_value": {f"{value:g}": scores.miou for value, scores in zip(backgrounds, all_scores)},
    }
    return summary(stage, spec, all_scores[best], images, split, confusions[best], background=background, **more)


def print_table(result: dict[str, Any], per_class: bool = True, splits: bool = False) -> None:
    """The scores as a table in percent; with `splits` also those of seen and unseen classes, where there are such."""
    steps = result.get("settings", {}).get("refine")
    title = f"after --refine {steps}" if steps else TITLES[result["stage"]]
    print(f"\n{title}: {result['images']} images, split {result['split']}")
    if per_class:
        width = max(14, *(len(name) + 1 for name in result["classes"]))
        cells = [f"{name:<{width}}{_percent(iou):>6}" for name, iou in result["classes"].items()]
        for start in range(0, len(cells), COLUMNS):
            print("  " + "    ".join(cells[start : start + COLUMNS]))
    miou, pixels, mean = (_percent(result[name]) for name in ("miou", "pixel_accuracy", "mean_accuracy"))
    print(f"  mIoU {miou}   pixel accuracy {pixels}   mean accuracy {mean}")
    if splits and "hiou" in result:
        background = ", the background among them" if "background" in result["classes"] else ""
        seen, unseen, both = (_percent(result[name]) for name in ("miou_seen", "miou_unseen", "hiou"))
        print(f"  mIoU of seen classes{background} {seen}   of unseen ones {unseen}   hIoU {both}")
        _print_sets(result["sets"])
    if "background" in result:
        sweep = result["background"]
        swept = "  ".join(f"{value}: {_percent(miou).strip()}" for value, miou in sweep["miou_by_value"].items())
        print(f"  background {sweep['kind']}, mIoU by value: {swept}")
        print(f"  best {sweep['value']:g} (chosen on the ground truth)")
    if result["coverage"] < 1:
        coverage, precision = _percent(result["coverage"]), _percent(result["precision"])
        print(f"  coverage {coverage}   precision of what is covered {precision}")
    _print_absent(result["absent"], result["absent_classes"])


def _print_sets(sets: dict[str, dict[str, float | None]]) -> None:
    """Sets beyond the seen classes, and what of the pixels of each set is right."""
    for name, scores in sets.items():
        means = "" if name == "base" else f"mIoU {_percent(scores['miou'])}   of all others "
        means += "" if name == "base" else f"{_percent(scores['others_miou'])}   hIoU {_percent(scores['harmonic'])}   "
        pixels = f"pixel accuracy {_percent(scores['pixel_accuracy'])}"
        print(f"  {name}: {means}{pixels}   of all others {_percent(scores['others_pixel_accuracy'])}")


def _print_absent(rule: str, left_out: Sequence[str]) -> None:
    """The rule for absent classes, where it changes anything; without such classes both rules give the same."""
    counted = ["classes that are only predicted count with IoU 0"] if rule == "union" else []
    if left_out:
        more = f" and {len(left_out) - LISTED} more" if len(left_out) > LISTED else ""
        counted.append(f"{LEFT_OUT[rule]}, left out of the means: {', '.join(left_out[:LISTED])}{more}")
    if counted:
        print(f"  --absent {rule}: {'; '.join(counted)}")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:5.1f}"


def write_json(path: Path | None, result: dict[str, Any]) -> None:
    """Write the scores, if a path is given."""
    if path is not None:
        write_text(path, json.dumps(result, indent=2) + "\n")
        print(f"  scores in {path}")
