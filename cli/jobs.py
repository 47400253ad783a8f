"""Jobs made from parsed options, and the texts and scores that commands print; the same for every command."""

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import run_log
from cli.model_options import cam_settings, tag_settings
from cli.options import data_options, shard_from
from common.errors import UserError
from common.outcome import Outcome
from common.provenance import OF_ONE_IMAGE
from common.shard import WHOLE, local_rank
from dataset.spec import BY_CLIP, EVERY_CLASS
from pipeline.methods.table import METHODS

if TYPE_CHECKING:
    from cli.lookup import Selection
    from cli.proposals import Voters
    from clip.load import Clip
    from dataset.mask_folder import Masks
    from dataset.spec import DatasetSpec
    from pipeline.stages.cams import CamJob, CamWork, ModelSource
    from pipeline.stages.crf import CrfJob
    from pipeline.stages.evaluate import Totals
    from pipeline.stages.refine import PromptSettings
    from pipeline.stages.tags import Tags

TAG_FILE = "tags.txt"


def labels_for_method(args: argparse.Namespace) -> None:
    """Set --labels all for a folder's images where the method scores all classes by itself."""
    if args.labels is None and args.dataset == "folder" and not METHODS[args.method].needs_labels:
        args.labels = EVERY_CLASS


def cam_job(args: argparse.Namespace, spec: "DatasetSpec", out_dir: Path, by_clip: bool) -> "CamJob":
    """The CAM stage's job. `by_clip`: TagCLIP gives the labels, with the same model."""
    from pipeline.stages.cams import CamJob

    folder = ""
    if getattr(args, "dataset", None) == "folder" and getattr(args, "img_root", None):
        folder = "/".join(args.img_root.resolve().parts[-2:])  # ids such as IMG_0001 come again in other folders
    return CamJob(
        spec,
        model_source(args, spec),
        cam_settings(args),
        out_dir,
        full_size=getattr(args, "save", "grid") == "highres",
        batch_size=getattr(args, "batch_size", None),
        readers=getattr(args, "readers", None),
        folder=folder,
        plain_vit=by_clip,
    )


def model_source(args: argparse.Namespace, spec: "DatasetSpec") -> "ModelSource":
    """The CLIP of --model, or the data set's own, its --prompts, and the device."""
    from pipeline.stages.cams import ModelSource

    if args.prompts and getattr(args, "templates", "auto") != "auto":
        raise UserError(
            f"--templates {args.templates}: learned prompts stand in their place; leave it or --prompts out"
        )
    model, tag = (args.model, args.pretrained) if args.model else spec.clip
    if not args.model and hasattr(args, "method") and METHODS[args.method].load is not None:
        model, tag = "", None  # its own kind of model, which no data set has
    return ModelSource(model, args.pretrained or tag, args.activation, args.device, args.prompts)


def load_model(job: "CamJob") -> "CamWork":
    """Set up the job in this process; warns of words that the model never saw."""
    from pipeline.stages.cams import set_up

    work = set_up(job, local_rank(os.environ))
    if unknown := unknown_words_of(work):
        print(f"warning: the model never saw these words: {', '.join(unknown)}", file=sys.stderr)
    return work


def unknown_words_of(work: "CamWork") -> list[str]:
    """What the method asks the model for, and the model never saw."""
    from clip.text import unknown_words

    asked = METHODS[work.settings.method].words(work.job.spec, work.settings.options)
    sentences = [] if work.clip.learned else [template.replace("{}", "") for template in asked.templates]
    return unknown_words(work.clip, [*sentences, *(name for group in asked.names for name in group)])


def crf_job(
    args: argparse.Namespace,
    spec: "DatasetSpec",
    images: Path,
    cams: Path,
    out_dir: Path | None,
    truth: "Masks | None",
    voting: "Voters | None" = None,
) -> "CrfJob":
    """The CRF stage's job."""
    from pipeline.stages.crf import CrfJob, backend_for
    from pipeline.stages.refine import CRF, SAM
    from pipeline.steps.masks import CONFIDENCE

    if SAM in args.refine and voting is None:
        raise UserError("--refine sam: this command keeps no masks that could vote; use scripts.segment or scripts.run")

    return CrfJob(
        cams=cams,
        images=images,
        out_dir=out_dir,
        truth=truth,
        num_classes=len(spec.classes),
        cam_type=args.cam_type,
        crf_image=args.crf_image,
        backend=args.crf or backend_for(args.device),
        device=args.device,
        confidence=(CONFIDENCE if CRF in args.refine else 0.0) if args.confidence is None else args.confidence,
        palette=args.palette,
        overwrite=args.overwrite,
        max_pixels=args.max_pixels,
        has_background=spec.has_background,
        steps=args.refine,
        votes=voting.votes if voting else None,
        prompts=prompt_settings(args),
    )


def prompt_settings(args: argparse.Namespace) -> "PromptSettings | None":
    """What `--refine prompts` asks with; None without it. Raises UserError for a network that cannot be loaded."""
    from dataclasses import replace

    from cli.options import settings_from
    from pipeline.stages.refine import PROMPTS, PromptSettings

    if PROMPTS not in args.refine:
        return None
    from clip.device import pick_device
    from zsseg.proposals import hub, sam

    settings = settings_from(args, PromptSettings)
    sam.load(sam.SamSettings(settings.weights), pick_device(args.device))
    return replace(settings, identity=hub.identity_of(settings.weights))


def mask_output(job: "CrfJob", cams_made_by: Mapping[str, Any], ids: list[str]) -> run_log.Output:
    """The output folder of the masks, and the settings of masks that are made of such maps."""
    assert job.out_dir is not None
    device = "cpu"
    if job.backend == "torch":
        from clip.device import pick_device

        device = str(pick_device(job.device))
    settings = job.settings(cams_made_by)
    return run_log.Output(job.out_dir, ".png", "--pseudo_mask_save_path", ids, settings, device, job.overwrite)


def tagged(
    args: argparse.Namespace, clip: "Clip", selection: "Selection", file: Path, log: run_log.RunLog
) -> "list[Tags]":
    """TagCLIP's labels of all images; an interrupted run goes on from a journal beside the label file.

    Images without labels are added to the log as failed.
    """
    from cli.console import progress
    from pipeline.files.tag_journal import journal_beside
    from pipeline.stages import tags

    if shard_from(args) != WHOLE:
        raise UserError("--labels clip with --shard: first `python -m scripts.tag_images`, then --labels tags.txt")
    images = selection.paths.images
    print(f"labels  of {len(selection.ids)} images by TagCLIP, kept in {file}")
    work = tags.set_up(clip, selection.spec, images, tag_settings(args))
    samples, missing = tags.unlabelled(images, selection.ids)
    results: list[tags.Tags] = []

    def outcomes() -> Iterator[Outcome]:
        for tag in tags.tag_samples(work, samples, journal_beside(file, work.record)):
            results.append(tag)
            yield tag.outcome

    for _ in progress(outcomes(), len(samples), "tags"):
        pass
    log.failed(selection.problems)
    log.failed([*missing, *((tag.id, tag.reason) for tag in results if tag.scores is None)], "tags")
    return [tag for tag in results if tag.scores is not None]


def announce_cams(work: "CamWork", dataset: str, images: object, count: int, labels: str = "") -> None:
    """Print what is about to be computed."""
    settings, spec = work.settings, work.job.spec
    print(f"data    {dataset}: {count} images in {images}")
    if labels:
        print(f"labels  {labels}")
    if dataset == "folder":
        asked = METHODS[settings.method].words(spec, settings.options).names[len(spec.classes) :]
        background = f", background {', '.join(word for group in asked for word in group)}" if asked else ""
        print(f"words   {len(spec.classes)} classes{background}")
    print(f"model   {work.clip.describe()} on {work.clip.device}")
    augmented = f", scales {list(settings.scales)}{' and flip' if settings.flip else ''}" if settings.augmented else ""
    shown = dict(_shown(settings.options))  # those of a method below another have the same names and values
    options = "".join(f", {key} {value}" for key, value in shown.items() if value not in (None, 0, (), ""))
    print(f"method  {settings.method}{options}{augmented}, batches of {work.batch_size}")


def _shown(settings: Any) -> Iterator[tuple[str, Any]]:
    """The settings by name, those that belong to others behind them; no lists, such as the names of all classes."""
    for key, value in vars(settings).items():
        if is_dataclass(value):
            yield from _shown(value)
        elif not isinstance(value, tuple) or len(value) <= 4:
            yield key, value


def announce_crf(job: "CrfJob") -> None:
    crf = f"{job.backend} on the {job.crf_image} image, {job.crf.iterations} iterations"
    steps = [
        f"CRF ({crf})" if step == "crf" else {"pamr": "PAMR", "sam": "votes", "prompts": "prompts"}[step]
        for step in job.steps
    ]
    if job.steps == ("crf",):
        print(f"CRF     {crf}, {job.cam_type} maps")
    else:
        print(f"refine  {', then '.join(steps) or 'nothing'}, {job.cam_type} maps")
    written = f"to {job.out_dir}, 255 below a probability of {job.confidence}" if job.out_dir else "not written"
    print(f"masks   {written}; {f'scored against {job.truth}' if job.truth else 'no --gt_root: not scored'}")


def print_crf_scores(
    args: argparse.Namespace,
    selection: "Selection",
    job: "CrfJob",
    cams_made_by: Mapping[str, Any],
    totals: "Totals",
    log: run_log.RunLog,
) -> None:
    """Print and record the scores of the labels before the 255s, as published, with the settings."""
    from dataclasses import asdict

    from report import scores as report

    if not totals.images:
        print("nothing could be scored", file=sys.stderr)
        return
    spec, confusion = selection.spec, totals.confusions[0]
    settings = {
        "crf_image": job.crf_image,
        "crf": job.backend,
        **asdict(job.crf),
        **({"refine": ",".join(job.steps) or "none"} if job.steps != ("crf",) else {}),
        **(job.votes.settings() if job.votes else {}),
        **(job.prompts.record() if job.prompts else {}),
        "cam_type": job.cam_type,
        "confidence": job.confidence,
        "cams": {key: cams_made_by[key] for key in sorted(cams_made_by) if key not in OF_ONE_IMAGE},
    }
    result = report.summary(
        "crf",
        spec,
        report.scores_of(confusion, args.absent),
        totals.images,
        selection.paths.split,
        confusion,
        settings=settings,
    )
    log.add_scores(result)
    report.print_table(result, splits=not spec.has_background)
    report.write_json(args.json, result)


def check_json_scores(args: argparse.Namespace, scored: bool) -> None:
    """Raise UserError before the work for --json without scores, or where it cannot be written."""
    from common.files import check_place

    if args.json is not None and not scored:
        raise UserError(f"--json {args.json}: there are no scores without ground truth; pass --gt_root DIR too")
    check_place(args.json, "--json", "scores.json")


def same_data(args: argparse.Namespace) -> str:
    """The options of the next command on the same data, as text."""
    labels = None if args.labels == BY_CLIP else args.labels
    cams = f" --cam_out_dir {shlex.quote(str(args.cam_out_dir))}" if args.cam_out_dir else ""
    return data_options(argparse.Namespace(**{**vars(args), "labels": labels})) + cams
