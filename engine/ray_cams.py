"""The CAM stage on Ray: units of the list through workers that hold the model.

A unit is a window of pipeline.stages.batches, so that batches are those of one process and the files the same bytes.
Images that go one by one depend on no other; then units are as small as keeps every worker busy.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.outcome import Outcome
from dataset.spec import Sample
from engine.ray_cluster import Pool, Report, Unit, Work, cluster, pool_for, reports, unit_size
from engine.ray_options import TEXTS, Address
from engine.ray_reports import all_failed, finished_of, only_looked, outcomes_of, report_of
from engine.remote import StandIn, fetch
from engine.shared_place import check_mark, marked
from engine.unit_files import UnitFiles

if TYPE_CHECKING:
    from pipeline.stages.cams import CamJob

GPU_BATCH = 16  # as in generate_cams.py


@dataclass(frozen=True)
class CamPlan:
    """What a worker makes its job of.

    options  those of generate_cams.py, with addresses
    made_by  the record that its job must have
    mark     a file that it must see where the results go
    """

    options: dict[str, Any]
    made_by: dict[str, Any]
    mark: str
    threads: int


def outcomes(args: argparse.Namespace, job: "CamJob", samples: Sequence[Sample]) -> Iterator[Outcome]:
    """Make the missing CAM files on the cluster; one outcome an image, in the order in which units end.

    Raises UserError, from a worker too, when files that are there were made with other settings.
    """
    here = StandIn(args.stand_in) if args.stand_in else None
    out_dir = here.told(job.out_dir) if here else str(job.out_dir)
    with cluster(args.address, args.shared_code), marked(out_dir) as mark:
        pool = pool_for(args.ray_workers, args.worker_cpus, args.worker_device != "cpu")
        batch_size = args.batch_size or (GPU_BATCH if pool.gpus else 1)
        options = _options(args, here, device=pool.device, batch_size=batch_size, cam_out_dir=_typed(out_dir))
        plan = CamPlan(options, job.made_by, mark, pool.cpus)
        units = _units(samples, here, pool, batch_size)
        smaller = _one_by_one if batch_size == 1 else (lambda unit: [unit])
        for report in reports(pool, cam_work, plan, units, smaller):
            yield from outcomes_of(report)


def _typed(place: str) -> Path | Address:
    return Address(place) if "://" in place else Path(place)


def _options(args: argparse.Namespace, here: StandIn | None, **others: Any) -> dict[str, Any]:
    """The options for the workers: addresses again, where paths of this machine stand in for them."""
    options = {**vars(args), **others, "stand_in": None}
    if here is None:
        return options
    for name, value in options.items():
        if isinstance(value, Path) or (name in TEXTS and isinstance(value, str)):
            told = here.told(value)
            options[name] = Address(told) if "://" in told else value
    return options


def _units(samples: Sequence[Sample], here: StandIn | None, pool: Pool, batch_size: int) -> list[Unit]:
    from pipeline.stages.batches import WINDOW

    size = WINDOW if batch_size > 1 else unit_size(len(samples), pool, WINDOW)
    told = here.told if here else str
    items = [[sample.id, told(sample.image), list(sample.labels)] for sample in samples]
    return [{"id": str(start), "items": items[start : start + size]} for start in range(0, len(items), size)]


def _one_by_one(unit: Unit) -> list[Unit]:
    return [{"id": f"{unit['id']}+{index}", "items": [item]} for index, item in enumerate(unit["items"])]


def cam_work(plan: CamPlan) -> Work:
    """In a worker: load the model; returns what makes the CAM files of a unit. Raises UserError."""
    import torch

    from generate_cams import make_job

    torch.set_num_threads(plan.threads)
    check_mark(plan.mark)
    with TemporaryDirectory(prefix="clip-pseudo-masks-") as folder:
        here = StandIn(Path(folder).resolve())
        args = argparse.Namespace(**{name: _fetched(here, name, value) for name, value in plan.options.items()})
        job = make_job(args, worker=0)
    if job.made_by != plan.made_by:
        differing = [name for name in plan.made_by if job.made_by.get(name) != plan.made_by[name]]
        raise UserError(f"{', '.join(differing)}: not the same on all machines; give them the same files and versions")
    return partial(_work_on, plan, job)


def _fetched(here: StandIn, name: str, value: Any) -> Any:
    """An option as the code that knows paths only wants it; the model and the classes are fetched."""
    if not isinstance(value, Address):
        return value
    if name in ("model", "pretrained", "classes"):
        for trouble in fetch([value], here).values():
            raise UserError(trouble)
    return str(here.path(value)) if name in TEXTS else here.path(value)


def _work_on(plan: CamPlan, job: "CamJob", unit: Unit) -> Report:
    """Make the CAM files of a unit in a folder of its own, or in the folder that all machines share."""
    ids = [item[0] for item in unit["items"]]
    with TemporaryDirectory(prefix="clip-pseudo-masks-") as folder:
        here = StandIn(Path(folder).resolve())
        out_dir = plan.options["cam_out_dir"]
        files = UnitFiles(
            here,
            images={key: image for key, image, _ in unit["items"] if "://" in image},
            results={key: f"{out_dir}/{key}.npz" for key in ids if isinstance(out_dir, Address)},
        )
        samples = [Sample(key, here.local(image), tuple(labels)) for key, image, labels in unit["items"]]
        own = replace(job, out_dir=here.local(out_dir))
        return report_of(all_failed(ids, lambda: _cams(plan, own, samples, files, "only_look" in unit), here.told))


def _cams(plan: CamPlan, job: "CamJob", samples: list[Sample], files: UnitFiles, only_look: bool) -> list[Outcome]:
    from pipeline.stages import cams as stage_cams

    ids = [sample.id for sample in samples]
    finished: set[str] = set()
    if only_look or not plan.options["overwrite"]:
        files.fetch_finished()
        look = partial(stage_cams.finished_ids, job)
        finished = finished_of(look, samples) if only_look else look(samples)
    if only_look:
        return only_looked(ids, finished)
    missing = set(ids) - finished
    files.fetch_inputs(missing if job.batch_size == 1 or not missing else ids)  # a batch is computed whole
    return files.put(stage_cams.run(job, samples, finished, threads=max(2, plan.threads)))
