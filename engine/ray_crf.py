"""The CRF stage on Ray: units of the list through workers.

Images go one by one but for `--crf torch`, which takes them in groups of pipeline.stages.crf: units are whole groups.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from common.outcome import Outcome
from engine.ray_cluster import Pool, Report, Unit, Work, cluster, pool_for, reports, unit_size
from engine.ray_reports import all_failed, finished_of, only_looked, outcomes_of, report_of
from engine.remote import StandIn
from engine.shared_place import check_mark, marked
from engine.unit_files import UnitFiles

if TYPE_CHECKING:
    from pipeline.stages.crf import CrfJob
    from pipeline.stages.evaluate import Totals

FOLDERS = ("cams", "images", "out_dir", "truth")  # of a CrfJob


@dataclass(frozen=True)
class CrfPlan:
    """What a worker needs.

    job      of stage_crf, its folders as they are here
    places   the same folders as paths or addresses that all machines know
    mark     a file that a worker must see where the masks go; empty when none are written
    """

    job: "CrfJob"
    places: dict[str, str]
    mark: str
    threads: int


def outcomes(args: argparse.Namespace, job: "CrfJob", ids: Sequence[str], totals: "Totals") -> Iterator[Outcome]:
    """Make the missing masks on the cluster and add all scores to the totals; one outcome an image.

    Raises UserError, from a worker too, when masks that are there were made with other settings.
    """
    told = StandIn(args.stand_in).told if args.stand_in else str
    places = {name: told(getattr(job, name)) for name in FOLDERS if getattr(job, name) is not None}
    with cluster(args.address, args.shared_code), marked(places.get("out_dir", "")) as mark:
        pool = pool_for(args.ray_workers, args.worker_cpus, job.backend == "torch" and args.worker_device != "cpu")
        plan = CrfPlan(replace(job, device=pool.device), places, mark, pool.cpus)
        for report in reports(pool, crf_work, plan, _units(job, ids, places, pool), _one_by_one):
            totals.confusions += totals.confusions.dtype.type(report["confusions"])
            totals.images += report["images"]
            yield from outcomes_of(report)


def _units(job: "CrfJob", ids: Sequence[str], places: dict[str, str], pool: Pool) -> list[Unit]:
    """Ids, with the name of the image file where a worker cannot look for it."""
    from pipeline.stages.batches import WINDOW
    from pipeline.stages.crf import GROUP

    size = unit_size(len(ids), pool, WINDOW, GROUP if job.backend == "torch" else 1)
    items = [[key, _file_name(job, key) if "://" in places["images"] else ""] for key in ids]
    return [{"id": str(start), "items": items[start : start + size]} for start in range(0, len(items), size)]


def _file_name(job: "CrfJob", image_id: str) -> str:
    from dataset.voc_layout import image_file

    path = image_file(job.images, image_id)
    return path.relative_to(job.images).as_posix() if path else ""


def _one_by_one(unit: Unit) -> list[Unit]:
    return [{"id": f"{unit['id']}+{index}", "items": [item]} for index, item in enumerate(unit["items"])]


def crf_work(plan: CrfPlan) -> Work:
    """In a worker: what makes the masks of a unit. Raises UserError."""
    import torch

    torch.set_num_threads(plan.threads)
    if plan.mark:
        check_mark(plan.mark)
    return partial(_work_on, plan)


def _work_on(plan: CrfPlan, unit: Unit) -> Report:
    """Make the masks of a unit in a folder of its own, or in the folder that all machines share."""
    ids = [key for key, _ in unit["items"]]
    totals = plan.job.empty_totals()
    with TemporaryDirectory(prefix="clip-pseudo-masks-") as folder:
        here = StandIn(Path(folder).resolve())
        folders: dict[str, Any] = {name: _folder(here, place) for name, place in plan.places.items()}
        job = replace(plan.job, **folders)
        files = _files(plan, here, unit["items"])
        done = all_failed(ids, lambda: _masks(plan, job, ids, totals, files, "only_look" in unit), here.told)
    return {**report_of(done), "confusions": totals.confusions.tolist(), "images": totals.images}


def _folder(here: StandIn, place: str) -> Path:
    folder = here.local(place)
    if "://" in place:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _files(plan: CrfPlan, here: StandIn, items: Sequence[Sequence[str]]) -> UnitFiles:
    def of(name: str, suffix: str) -> dict[str, str]:
        place = plan.places.get(name, "")
        return {key: f"{place}/{key}{suffix}" for key, _ in items} if "://" in place else {}

    images = plan.places["images"]
    found = {key: f"{images}/{name}" for key, name in items if name}
    inputs = [of("cams", ".npz"), of("truth", ".png")]
    return UnitFiles(here, found, of("out_dir", ".png"), [address for each in inputs for address in each.items()])


def _masks(
    plan: CrfPlan, job: "CrfJob", ids: list[str], totals: "Totals", files: UnitFiles, only_look: bool
) -> list[Outcome]:
    from pipeline.stages import crf as stage_crf

    files.fetch_others()
    finished: set[str] = set()
    if job.out_dir and (only_look or not job.overwrite):
        files.fetch_finished()
        look = partial(stage_crf.finished_ids, replace(job, overwrite=False))
        finished = finished_of(look, ids) if only_look else look(ids)
    if only_look:
        return only_looked(ids, finished)
    files.fetch_inputs(set(ids) - finished if job.truth is None else ids)
    return files.put(stage_crf.run(job, ids, totals, plan.threads))
