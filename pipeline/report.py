"""Scores for people (a table) and for programs (JSON). May import numpy, pipeline.scores, dataset and common."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.files import write_text
from dataset.spec import DatasetSpec
from pipeline.scores import Scores, scores_of

TITLES = {
    "cam": "CAM (unrefined)",
    "attn": "CAM (refined by the affinity)",
    "crf": "after the CRF",
    "masks": "written masks (255 counts as not predicted)",
}
ABSENT_RULE = "classes that the ground truth never shows are left out of the means"
STAGES = {"highres": "cam", "attn_highres": "attn"}


def summary(
    stage: str, spec: DatasetSpec, scores: Scores, images: int, split: Path, confusion: np.ndarray, **more: Any
) -> dict[str, Any]:
    """The JSON form of scores. Shares are fractions of 1; a class absent from the ground truth has IoU null."""
    return {
        "stage": stage,
        "dataset": spec.name,
        "split": str(split),
        "images": images,
        "miou": scores.miou,
        "classes": dict(zip(spec.label_names, scores.iou)),
        "pixel_accuracy": scores.pixel_accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "coverage": scores.coverage,
        "precision": scores.precision,
        "pixels": int(confusion.sum()),
        "absent_classes": [name for name, iou in zip(spec.label_names, scores.iou) if iou is None],
        "absent_rule": ABSENT_RULE,
        **more,
    }


def swept_summary(
    stage: str,
    spec: DatasetSpec,
    confusions: np.ndarray,
    backgrounds: Sequence[float],
    images: int,
    split: Path,
    **more: Any,
) -> dict[str, Any]:
    """Like `summary`, for the best of (S, C, C+1) confusion matrices, one a background setting."""
    every = [scores_of(confusion) for confusion in confusions]
    best = int(np.argmax([scores.miou for scores in every]))
    kind = "constant score" if backgrounds[best] < 1 else "exponent of (1 - max cam)"
    background = {
        "kind": kind,
        "value": backgrounds[best],
        "chosen_on": "the ground truth",
        "miou_by_value": {f"{value:g}": scores.miou for value, scores in zip(backgrounds, every)},
    }
    return summary(stage, spec, every[best], images, split, confusions[best], background=background, **more)


def print_table(result: dict[str, Any], per_class: bool = True) -> None:
    """The scores as a table in percent."""
    print(f"\n{TITLES[result['stage']]}: {result['images']} images, split {result['split']}")
    if per_class:
        _print_classes(result["classes"])
    print(f"  mIoU {_percent(result['miou'])}   pixel accuracy {_percent(result['pixel_accuracy'])}", end="")
    print(f"   mean accuracy {_percent(result['mean_accuracy'])}")
    if "background" in result:
        _print_sweep(result["background"])
    if result["coverage"] < 1:
        print(
            f"  coverage {_percent(result['coverage'])}   precision of what is covered {_percent(result['precision'])}"
        )
    if result["absent_classes"]:
        print(f"  not in the ground truth, left out of the means: {', '.join(result['absent_classes'])}")


def _print_classes(classes: dict[str, float | None], columns: int = 3) -> None:
    cells = [f"{name:<14}{_percent(iou):>6}" for name, iou in classes.items()]
    for start in range(0, len(cells), columns):
        print("  " + "    ".join(cells[start : start + columns]))


def _print_sweep(background: dict[str, Any]) -> None:
    swept = "  ".join(f"{value}: {_percent(miou).strip()}" for value, miou in background["miou_by_value"].items())
    print(f"  background {background['kind']}, mIoU by value: {swept}")
    print(f"  best {background['value']:g} (chosen on the ground truth)")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:5.1f}"


def write_json(path: Path | None, result: dict[str, Any]) -> None:
    """Write the scores, if a path is given."""
    if path is not None:
        write_text(path, json.dumps(result, indent=2) + "\n")
        print(f"  scores in {path}")
