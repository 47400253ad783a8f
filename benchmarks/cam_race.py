"""Our CAM stage and the plain transcription on the same photos, in turns. The work of benchmarks/cams.py."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

import generate_cams
from benchmarks.flops import Products, floor_seconds, flops, needed, sizes_of
from benchmarks.material import Photos
from benchmarks.measure import take_turns
from benchmarks.plain_clip_es import PlainMaps, load_plain, plain_maps, save
from common.errors import UserError
from common.images import image_size, read_image
from dataset.spec import Sample
from pipeline.files.cam_file import load_cams
from pipeline.stages import cams as stage_cams
from pipeline.stages.batches import plan
from pipeline.stages.cams import CamJob
from voc12.spec import SPEC

TOLERANCE = 1e-3  # of maps; what we store is rounded to float16, which alone is 5e-4


def cam_job(weights: Path, photos: Photos, out_dir: Path, device: object = "cpu") -> CamJob:
    """Our stage as the command sets it up."""
    options = [*photos.options(), "--model", str(weights), "--device", str(device), "--cam_out_dir", str(out_dir)]
    with redirect_stderr(StringIO()):  # that the toy world's model never saw VOC's words
        return generate_cams.make_job(generate_cams.parse(options), worker=0)


class Race:
    """One model and the same photos for all contestants.

    repeat   our list is the photos so often
    readers  processes that read for our stage; their start is not counted
    """

    def __init__(
        self,
        weights: Path,
        samples: Sequence[Sample],
        folder: Path,
        device: torch.device,
        repeat: int = 1,
        readers: int = 0,
    ) -> None:
        self.plain_model = load_plain(weights, SPEC, device)
        self.samples, self.many = samples, [*samples] * repeat
        self.folder, self.device, self.readers = folder, device, readers

    def run(self, jobs: Mapping[str, CamJob], turns: int) -> list[dict[str, Any]]:
        """A row a job."""
        plain = self.plain()
        agreement = {}
        for name, job in jobs.items():
            self.ours(job)  # warms up
            agreement[name] = self.agreement(job, plain)
        seconds = take_turns(self.contestants(jobs), turns)
        return [{"way": name, **self.row(name, job, seconds), **agreement[name]} for name, job in jobs.items()]

    def contestants(self, jobs: Mapping[str, CamJob]) -> dict[str, Callable[[], float]]:
        """What runs in turns; each gives its seconds an image."""
        found: dict[str, Callable[[], float]] = {"plain": self.plain_seconds}
        for name, job in jobs.items():
            found[name] = lambda job=job: self.ours(job)  # type: ignore[misc]
            found[f"products of {name}"] = lambda job=job: self.floor(job)  # type: ignore[misc]
        return found

    def row(self, name: str, job: CamJob, seconds: Mapping[str, float]) -> dict[str, Any]:
        ours, floor, plain = seconds[name], seconds[f"products of {name}"], seconds["plain"]
        gflop = flops(self.products(job)) / len(self.many) / 1e9
        return {
            "precision": job.settings.precision,
            "batch_size": job.batch_size,
            "images_per_s": 1 / ours,
            "plain_images_per_s": 1 / plain,
            "ratio": plain / ours,
            "gflop_an_image": gflop,
            "gflop_per_s": gflop / ours,
            "gflop_per_s_of_products": gflop / floor,
            "share_of_floor": floor / ours,
        }

    # --- the contestants --------------------------------------------------------------------------

    def plain(self) -> list[PlainMaps]:
        """The transcription over the photos, with its files."""
        done = []
        for sample in self.samples:
            done.append(plain_maps(self.plain_model, read_image(sample.image), sample.labels))
            save(self.folder / f"{sample.id}_plain.npz", done[-1])
        return done

    def plain_seconds(self) -> float:
        start = time.perf_counter()
        self.plain()
        return (time.perf_counter() - start) / len(self.samples)

    def ours(self, job: CamJob) -> float:
        """Seconds an image of our stage, over the whole list or, with readers, from its first image on."""
        start, done = time.perf_counter(), 0
        for outcome in stage_cams.run(job, self.many, set(), readers=self.readers):
            if outcome.status != "made":
                raise UserError(f"{outcome.id}: {outcome.status} {outcome.reason}")
            if self.readers and not done:
                start = time.perf_counter()
            done += 1
        return (time.perf_counter() - start) / max(1, done - bool(self.readers))

    def floor(self, job: CamJob) -> float:
        """Seconds an image that the matrix products of our batches take alone."""
        precision = getattr(torch, job.settings.precision)
        return floor_seconds(self.products(job), self.device, precision) / len(self.many)

    def products(self, job: CamJob) -> Products:
        """What the batches of our list need."""
        total, sizes = Products(), sizes_of(job.clip.visual)
        for batch in plan(job.reader, job.batch_size, self.many, set()):
            if batch.samples:
                grid = job.reader.grid(image_size(batch.samples[0].image))
                total += needed(sizes, grid, [len(sample.labels) for sample in batch.samples])
        return total

    # --- whether they do the same -----------------------------------------------------------------

    def agreement(self, job: CamJob, plain: Sequence[PlainMaps]) -> dict[str, float]:
        """The largest difference between our files and the transcription's maps, and the share of maps within."""
        worst: dict[str, list[float]] = {"highres": [], "attn_highres": []}
        for sample, maps in zip(self.samples, plain):
            for name, found in worst.items():
                _, own = load_cams(job.path(sample.id), name, len(SPEC.classes))
                found += np.abs(own - getattr(maps, name)).max(axis=(1, 2)).tolist()
        every = [*worst["highres"], *worst["attn_highres"]]
        return {
            "max_cam": max(worst["highres"], default=0.0),
            "max_attn": max(worst["attn_highres"], default=0.0),
            "equal_maps": sum(value < TOLERANCE for value in every) / max(1, len(every)),
        }
