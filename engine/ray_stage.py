"""The CAM stage and the CRF stage on Ray: units of the list for workers that set up the job once.

Workers get the driver's job. Where its paths mirror addresses, a worker uses a mirror of its own: it copies its inputs
there, and the results back.

Batches of CAMs are cut from windows of the list (pipeline/stages/batches.py), so a unit is such a window, and the files
have the same bytes as those of one process. With batches of one image, units are small enough to keep every worker
busy. `--crf torch` takes images in groups, and units are whole groups.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from common.cores import available_cores
from common.errors import StopRun, UserError
from common.outcome import Outcome
from dataset.spec import Sample
from engine.ray_cluster import ROOT, ClusterOptions, Unit, Work, cluster, pool_for, results, unit_size, units_of
from engine.remote import Mirror, check_visible, fetch, probe_file
from engine.unit_files import UnitFiles

if TYPE_CHECKING:
    import numpy as np

    from pipeline.stages.cams import CamJob, CamWork
    from pipeline.stages.crf import CrfJob
    from pipeline.stages.evaluate import Totals

Job = TypeVar("Job")
LOST = "its worker process ended unexpectedly each time it was tried (out of memory?)"


@dataclass(frozen=True)
class Plan(Generic[Job]):
    """The work of every worker.

    job        with the driver's paths
    overwrite  replace results that exist
    mirror     the driver's mirror of addresses, in which paths of the job may lie; None: there are no addresses
    probe      a file in the output folder that every worker must see; "" without an output folder
    threads    of a worker
    made_by    the record that the job must have on every machine; empty for jobs without one
    root       the driver's folder of the code
    """

    job: Job
    overwrite: bool
    mirror: Mirror | None
    probe: str
    threads: int
    made_by: Mapping[str, Any] = field(default_factory=dict)
    root: Path = ROOT

    def moved(self, path: Path, here: Mirror) -> Path:
        """A path of the job on this machine, whose mirror is `here`."""
        if self.mirror and path.is_relative_to(self.mirror.folder):
            return here.folder / path.relative_to(self.mirror.folder)
        return path

    def check(self) -> None:
        """Prepare a worker. Raises UserError when it does not see the output folder."""
        import torch

        torch.set_num_threads(self.threads)
        if self.probe:
            check_visible(self.probe)


def _place(options: ClusterOptions, folder: Path | None) -> str:
    """A folder as all machines know it: a path or an address; "" for none."""
    if folder is None:
        return ""
    return options.mirror.with_addresses(folder) if options.mirror else str(folder)


@contextmanager
def _temporary_mirror() -> Iterator[Mirror]:
    with TemporaryDirectory(prefix="clip-pseudo-masks-") as folder:
        yield Mirror(Path(folder).resolve())


def cam_outcomes(
    options: ClusterOptions, work: "CamWork", samples: Sequence[Sample], overwrite: bool
) -> Iterator[Outcome]:
    """Make the missing CAM files on the cluster; one outcome an image, in the order in which units end.

    work  the job as it was set up by the driver
    Raises UserError, from a worker too, when files that are there were made with other settings.
    """
    from pipeline.stages.batches import WINDOW
    from pipeline.stages.cams import GPU_BATCH

    job = work.job
    with cluster(options), probe_file(_place(options, job.out_dir)) as probe:
        pool = pool_for(options)
        batch_size = job.batch_size or (GPU_BATCH if pool.gpus else 1)
        job = replace(job, batch_size=batch_size, model=replace(job.model, device=pool.device))
        plan = Plan(job, overwrite, options.mirror, probe, pool.cpus, work.made_by)
        one_by_one = batch_size == 1
        units = units_of(samples, unit_size(len(samples), pool, WINDOW) if one_by_one else WINDOW)
        smaller = Unit.singles if one_by_one else (lambda unit: [unit])
        for outcomes in results(pool, cam_worker, plan, units, smaller):
            yield from outcomes


def cam_worker(plan: "Plan[CamJob]") -> Work:
    """In a worker: load the model; returns the function that makes the CAM files of a unit. Raises UserError."""
    from pipeline.stages import cams

    plan.check()
    with _temporary_mirror() as here:
        model = plan.job.model
        model = replace(
            model,
            model=_model_file(plan, here, model.model),
            pretrained=model.pretrained and _model_file(plan, here, model.pretrained),
        )
        work = cams.set_up(replace(plan.job, model=model), processes=max(1, available_cores() // plan.threads))
    if work.made_by != plan.made_by:
        names = [name for name in plan.made_by if work.made_by.get(name) != plan.made_by[name]]
        raise UserError(f"{', '.join(names)}: not the same on all machines; give them the same files and versions")
    return partial(_make_cams, plan, work)


def _model_file(plan: Plan[Any], here: Mirror, text: str) -> str:
    """A model's name, or its file on this machine: fetched, or the one that came with the code."""
    path = Path(text)
    mirrored = plan.moved(path, here)
    if mirrored != path:
        for error in fetch([here.address(mirrored)], here).values():
            raise UserError(error)
        return str(mirrored)
    if path.is_relative_to(plan.root) and (ROOT / path.relative_to(plan.root)).exists():
        return str(ROOT / path.relative_to(plan.root))
    return text


def _make_cams(plan: "Plan[CamJob]", work: "CamWork", unit: Unit) -> list[Outcome]:
    from pipeline.stages import cams

    ids = [sample.id for sample in unit.items]
    with _temporary_mirror() as here:
        work = replace(work, job=replace(work.job, out_dir=plan.moved(work.job.out_dir, here)))
        samples = [replace(sample, image=plan.moved(sample.image, here)) for sample in unit.items]
        images = {sample.id: sample.image for sample in samples}
        files = UnitFiles(here, ids, images, {key: work.path(key) for key in ids})

        def make(finished: set[str]) -> Iterable[Outcome]:
            missing = set(ids) - finished
            files.fetch_images(missing if work.batch_size == 1 or not missing else ids)  # a batch is computed whole
            return cams.run(work, samples, finished, threads=max(2, plan.threads))

        return _outcomes(plan, unit, files, samples, partial(cams.finished_ids, work), make)


def crf_outcomes(options: ClusterOptions, job: "CrfJob", ids: Sequence[str], totals: "Totals") -> Iterator[Outcome]:
    """Make the missing masks on the cluster and add all scores to the totals; one outcome an image.

    Raises UserError, from a worker too, when masks that are there were made with other settings.
    """
    from dataset.voc_layout import image_file
    from pipeline.stages.batches import WINDOW
    from pipeline.stages.crf import GROUP

    by_address = bool(options.mirror and options.mirror.address(job.images))  # then a worker cannot look for a file
    items = [(key, image_file(job.images, key) if by_address else None) for key in ids]
    with cluster(options), probe_file(_place(options, job.out_dir)) as probe:
        pool = pool_for(options, job.backend == "torch")
        plan = Plan(replace(job, device=pool.device), job.overwrite, options.mirror, probe, pool.cpus)
        size = unit_size(len(items), pool, WINDOW, GROUP if job.backend == "torch" else 1)
        for outcomes, confusions, images in results(pool, crf_worker, plan, units_of(items, size), Unit.singles):
            totals.confusions += confusions
            totals.images += images
            yield from outcomes


def crf_worker(plan: "Plan[CrfJob]") -> Work:
    """In a worker: the function that makes the masks of a unit. Raises UserError."""
    plan.check()
    return partial(_make_masks, plan)


def _make_masks(plan: "Plan[CrfJob]", unit: Unit) -> "tuple[list[Outcome], np.ndarray, int]":
    from dataset.mask_folder import mask_folder
    from pipeline.stages import crf

    ids = [key for key, _ in unit.items]
    totals = plan.job.empty_totals()
    with _temporary_mirror() as here:
        folders = {name: getattr(plan.job, name) for name in ("cams", "images", "out_dir")}
        moved: dict[str, Any] = {name: path and plan.moved(path, here) for name, path in folders.items()}
        truth = None if plan.job.truth is None else mask_folder(plan.job.truth)
        if truth is not None:
            truth = replace(truth, folder=plan.moved(truth.folder, here))
        for path in filter(here.address, filter(None, [*moved.values(), truth and truth.folder])):
            path.mkdir(parents=True, exist_ok=True)
        job = replace(plan.job, truth=truth, **moved)
        images = {key: plan.moved(path, here) for key, path in unit.items if path}
        masks = {key: job.target(key) for key in ids if job.out_dir}
        truths = [(key, truth.path(key)) for key in ids if truth is not None]
        files = UnitFiles(here, ids, images, masks, [*((key, job.cam_file(key)) for key in ids), *truths])

        def make(finished: set[str]) -> Iterable[Outcome]:
            files.fetch_images(set(ids) - crf.settled_ids(job, finished))
            return crf.run(job, ids, totals, plan.threads)

        look = partial(crf.finished_ids, replace(job, overwrite=False))
        return _outcomes(plan, unit, files, ids, look, make), totals.confusions, totals.images


def _outcomes(
    plan: Plan[Any],
    unit: Unit,
    files: UnitFiles,
    items: Sequence[Any],
    look: Callable[[Sequence[Any]], set[str]],
    make: Callable[[set[str]], Iterable[Outcome]],
) -> list[Outcome]:
    """Make the missing results of a unit, or report its finished ones; after an unforeseen error all images fail.

    look  returns the ids of the finished items
    make  makes the others
    """
    finished: set[str] = set()
    try:
        files.fetch_inputs()
        if unit.only_look:  # workers died with this unit, but some results may be finished
            files.fetch_finished()
            for item in items if files.results else ():
                with suppress(UserError):  # made in another way, which is not finished
                    finished |= look([item])
            return [
                Outcome(key, "kept") if key in finished else Outcome(key, "failed", f"{key}: {LOST}")
                for key in files.ids
            ]
        if files.results and not plan.overwrite:
            files.fetch_finished()
            finished = look(items)
        return files.put(make(finished))
    except (UserError, StopRun) as error:
        raise type(error)(files.mirror.with_addresses(error)) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(files.mirror.with_addresses(error).split())[:200]}"
        return [Outcome(key, "failed", f"{key}: {reason}") for key in files.ids]
