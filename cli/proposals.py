"""Jobs that propose regions, made from parsed options, and the masks among them that vote (`--refine crf,sam`)."""

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.console import progress
from cli.options import settings_from
from common.errors import UserError
from common.provenance import record_text
from pipeline.stages.refine import SAM, Votes, VoteSettings
from zsseg.proposals.table import PROPOSERS

if TYPE_CHECKING:
    from dataset.spec import DatasetSpec, Sample
    from pipeline.stages.crf import CrfJob
    from pipeline.stages.proposals import ProposalJob

SHORT_HASH = 8


def proposal_settings(args: argparse.Namespace, way: str, spec: "DatasetSpec") -> Any:
    """The settings of a way to propose regions. Raises UserError for a folder that is not there."""
    proposer = PROPOSERS[way]
    return proposer.complete(proposer.with_classes(settings_from(args, proposer.settings), spec))


def proposal_job(args: argparse.Namespace, way: str, spec: "DatasetSpec", out: Path, **job: Any) -> "ProposalJob":
    """The job that fills a folder; `job` are further fields of it."""
    from pipeline.stages.proposals import ProposalJob

    folder, settings = "", proposal_settings(args, way, spec)
    if getattr(args, "dataset", None) == "folder" and getattr(args, "img_root", None):
        folder = "/".join(args.img_root.resolve().parts[-2:])  # ids such as IMG_0001 come again in other folders
    workers = getattr(args, "num_workers", 1)
    return ProposalJob(way, settings, out, device=args.device, processes=workers, folder=folder, **job)


def without_labels(images: Path, ids: Sequence[str]) -> "tuple[list[Sample], list[tuple[str, str]]]":
    """The images of the ids as samples without labels, and (id, reason) of those that are missing."""
    from dataset.spec import Sample
    from dataset.voc_layout import find_image

    samples, failures = [], []
    for image_id in ids:
        try:
            samples.append(Sample(image_id, find_image(images, image_id), ()))
        except UserError as error:
            failures.append((image_id, str(error)))
    return samples, failures


@dataclass(frozen=True)
class Voters:
    """The masks that vote in a run.

    votes  what the CRF's stage is told
    job    makes those that are missing; None where they are somebody's
    """

    votes: Votes
    job: "ProposalJob | None" = None

    def prepare(self, crf: "CrfJob", samples: "Sequence[Sample]") -> "CrfJob":
        """Make the missing masks of these photos; returns the CRF's job, which knows those that cannot be made.

        Raises UserError for a network that cannot be loaded, and for files that were made in another way.
        """
        print(f"votes   of the masks in {self.votes.folder}, by {self.votes.rule}")
        if self.job is None or not samples:
            return crf
        from pipeline.stages import proposals

        finished = proposals.finished_ids(self.job, samples, "pass another --vote_dir")
        outcomes = proposals.run(self.job, samples, finished)
        bar = progress(outcomes, len(samples), "masks that vote")
        failures = {outcome.id: outcome.reason for outcome in bar if outcome.status == "failed"}
        return replace(crf, votes=replace(self.votes, failures=failures))


def voters(args: argparse.Namespace, spec: "DatasetSpec", beside: Path) -> Voters | None:
    """The masks that `--refine` asks for; None where none vote.

    beside  the folder in which they are kept unless --vote_dir names another
    Raises UserError for a folder or weights that cannot be used.
    """
    if SAM not in args.refine:
        return None
    asked = settings_from(args, VoteSettings)
    if PROPOSERS[asked.votes].source is not None:
        if asked.folder is not None:
            there = f"give their folder as --proposal_dir {asked.folder}"
            raise UserError(f"--vote_dir {asked.folder}: with --votes {asked.votes} masks are only read; {there}")
        folder = Path(proposal_settings(args, asked.votes, spec).folder)
        return Voters(Votes(folder, asked.rule))
    from common.files import need_writable

    job = proposal_job(args, asked.votes, spec, Path(asked.folder or beside), none_is_fine=True)
    if asked.folder is None:
        digest = hashlib.sha256(record_text(job.made_by()).encode()).hexdigest()[:SHORT_HASH]
        job = replace(job, out_dir=beside / "regions" / f"{asked.votes}-{digest}")
    need_writable(job.out_dir, "--vote_dir")
    return Voters(Votes(job.out_dir, asked.rule, job.made_by()), job)
