"""The loop of scripts/propose.py: photos -> regions, one file a photo."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from clip.device import pick_device
from common.errors import UserError
from common.files import check_output
from common.outcome import Outcome
from common.parallel import ordered_map
from common.provenance import SOURCE, can_stay, source_of
from common.version import VERSION
from dataset.spec import Sample
from pipeline.stages.batches import read_photo
from pipeline.stages.evaluate import CHECKING
from pipeline.stages.failure import failure
from pipeline.stages.readers import in_processes
from pipeline.steps.regions import Regions, fitted
from zsseg.proposals.files import read_record, write_regions
from zsseg.proposals.proposer import Photo, Propose
from zsseg.proposals.table import PROPOSERS

FORMAT = 1  # of the files; part of their record
FEW = 32  # photos for which no processes are started
REMEDY = "pass --overwrite or another --out"


@dataclass(frozen=True)
class ProposalJob:
    """Regions of all photos of a run.

    proposals  one of zsseg.proposals.table.PROPOSERS
    settings   an instance of its settings
    out_dir    where the files go
    max_side   regions are looked for in larger photos at this size; the files have the photo's
    device     of a network
    processes  that propose side by side, where no network does
    folder     names the folder of the images where their ids come again in other folders
    none_is_fine  a photo without any region gets a file too
    """

    proposals: str
    settings: Any
    out_dir: Path
    max_side: int = 1024
    device: str = "auto"
    processes: int = 1
    folder: str = ""
    none_is_fine: bool = False

    @property
    def ending(self) -> str:
        return ".png" if PROPOSERS[self.proposals].partition else ".npz"

    def path(self, image_id: str) -> Path:
        return self.out_dir / f"{image_id}{self.ending}"

    def made_by(self) -> dict[str, Any]:
        """The record that all files have in common."""
        shared = {"format": FORMAT, "code": VERSION, "proposals": self.proposals, "max_side": self.max_side}
        return {**shared, **asdict(self.settings), **({"images": self.folder} if self.folder else {})}


def finished_ids(job: ProposalJob, samples: Iterable[Sample], remedy: str = REMEDY) -> set[str]:
    """Ids whose file is whole and made with the same settings of the same image; damaged files count as missing.

    Raises UserError, showing the difference and the remedy, when a file was made in another way.
    """

    def is_finished(sample: Sample) -> bool:
        path = job.path(sample.id)
        try:
            record, source = read_record(path), source_of(sample.image)
        except UserError:  # missing or damaged; an image that cannot be read will say so
            return False
        return can_stay(path, record, {**job.made_by(), SOURCE: source}, remedy)

    samples = list(samples)
    checked = ordered_map(is_finished, samples, CHECKING, ahead=16)
    return {sample.id for sample, finished in zip(samples, checked) if finished}


Proposed = tuple[Sample, str, Regions] | Outcome  # with the image's identity


def run(job: ProposalJob, samples: Sequence[Sample], finished: set[str], threads: int = 2) -> Iterator[Outcome]:
    """Write the missing files; one outcome an image. Raises UserError for weights that cannot be loaded."""
    proposer = PROPOSERS[job.proposals]
    missing = [sample for sample in samples if sample.id not in finished]
    if not missing:  # then no network is needed
        yield from (Outcome(sample.id, "kept") for sample in samples)
        return
    if not proposer.network:
        work = partial(_proposed, proposer.load(job.settings, None), job)
        by_process = job.processes > 1 and len(missing) > FEW
        made = in_processes(work, missing, job.processes) if by_process else ordered_map(work, missing, threads)
    else:
        propose = proposer.load(job.settings, pick_device(job.device))
        read = ordered_map(partial(_read, job), missing, threads)
        made = (item if isinstance(item, Outcome) else _from_photo(propose, *item) for item in read)
    outcomes = ordered_map(partial(_write, job), made, threads)
    for sample in samples:
        yield Outcome(sample.id, "kept") if sample.id in finished else next(outcomes)


def _read(job: ProposalJob, sample: Sample) -> tuple[Sample, str, Photo] | Outcome:
    try:
        return sample, source_of(sample.image), read_photo(sample, job.max_side)[0]
    except Exception as error:
        return failure(sample.id, error, sample.image)


def _from_photo(propose: Propose, sample: Sample, source: str, photo: Photo) -> Proposed:
    try:
        return sample, source, fitted(propose(photo), photo.size, (photo.rgb.shape[0], photo.rgb.shape[1]))
    except Exception as error:
        return failure(sample.id, error, sample.image)


def _proposed(propose: Propose, job: ProposalJob, sample: Sample) -> Proposed:
    read = _read(job, sample)
    return read if isinstance(read, Outcome) else _from_photo(propose, *read)


def _write(job: ProposalJob, proposed: Proposed) -> Outcome:
    if isinstance(proposed, Outcome):
        return proposed
    sample, source, regions = proposed
    try:
        if not len(regions) and not job.none_is_fine:
            raise UserError(f"{sample.image}: no region was found; try other settings")
        target = check_output(job.path(sample.id), job.out_dir)
        write_regions(target, regions, {**job.made_by(), SOURCE: source})
        return Outcome(sample.id, "made")
    except Exception as error:
        return failure(sample.id, error, sample.image)
