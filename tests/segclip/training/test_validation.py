"""Zero-shot scores on the way are those that --method segclip and eval_cam.py give for the weights."""

import json
from functools import partial
from pathlib import Path

import pytest

from pipeline.methods.segclip import METHOD, SegClipSettings
from segclip.training.trainer import WEIGHTS, train
from segclip.training.validation import HeldOut
from tests.segclip.training.small import folder_job, small_state, write_folder
from tests.support import Command, clip_from, tiny_model, write_world
from tests.training.small import ALONE
from training.board import read_log
from voc12.spec import SPEC


@pytest.mark.slow
def test_the_scores_are_those_of_the_stages(tmp_path: Path, command: Command) -> None:
    """Two photos, one without a mask; the network's size is not that of the photos."""
    scenes = {"a": ((40, 52), ["dog"]), "b": ((52, 40), ["cat"]), "c": ((40, 40), ["person"])}
    root = write_world(tmp_path / "VOC2012", scenes)
    (root / "SegmentationClass/c.png").unlink()
    options = METHOD.complete(clip_from(tiny_model().state_dict()), SPEC, SegClipSettings(0.06))
    held_out = HeldOut(SPEC, list(scenes), root / "JPEGImages", root / "SegmentationClass", "quick_gelu", options)
    validate = partial(held_out, ranks=ALONE)
    job = folder_job(write_folder(tmp_path / "photos"), tmp_path / "out", max_iters=2, validate=validate)
    report = train(job, small_state(job), ALONE)
    assert list(report.failures) == ["c"]
    found = read_log(job.out)[-1]

    (tmp_path / "split.txt").write_text("a\nb\n")
    data = ["--dataset", "voc12", "--img_root", root, "--split_file", tmp_path / "split.txt", "--labels", "all"]
    cams, scores = ["--cam_out_dir", tmp_path / "cams"], tmp_path / "scores.json"
    model = ["--method", "segclip", "--model", job.out / WEIGHTS, "--background_threshold", 0.06]
    assert command("generate_cams", *data, *cams, *model, "--device", "cpu").code == 0
    assert command("eval_cam", *data, *cams, "--json", scores).code == 0
    wanted = json.loads(scores.read_text())
    for name in ("miou", "pixel_accuracy"):
        assert found[name] == pytest.approx(wanted[name], abs=1e-9) and 0 < found[name] < 1
