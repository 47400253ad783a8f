"""The Python interface: photos and words in, arrays out. Work and options are those of `pseudo-masks segment`."""

import argparse
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from cli.jobs import cam_job, crf_job, load_model
from cli.model_options import tag_settings
from cli.options import parsed
from clip.load import check_model
from common.errors import StopRun, UserError, in_short
from common.outcome import Outcome
from common.package import needed_packages
from dataset.spec import DatasetSpec, Sample
from pipeline.methods.table import METHODS
from pipeline.stages import run, tags
from pipeline.stages.batches import BatchImage
from pipeline.stages.cams import CamWork
from pipeline.stages.crf import CrfJob, CrfResult, full_size
from pipeline.stages.one_photo import KeptModel
from pipeline.stages.refine import SAM
from pipeline.steps.regions import resized_maps
from scripts import segment

__all__ = ["Photo", "Pipeline", "Result", "StopRun", "UserError"]

CHUNK = 8  # images that are at work together, at least
KEPT = 8  # sets of words whose embeddings are kept

Photo = str | os.PathLike[str] | Image.Image | np.ndarray
Labels = Sequence[str] | Callable[[Any], Sequence[str] | None] | None


@dataclass(frozen=True)
class Result:
    """What became of one image of (H, W) pixels, with k of the K classes in it.

    classes        the K names; the mask value of classes[i] is i + 1, and i where the data set has no background
    keys           (k,) int64, which of the classes were looked for
    mask           (H, W) uint8: 0 background, else a class's value, 255 below a probability of `confidence`
    labels         (H, W) uint8, the same before the 255s
    cams, refined  (k, h, w) float32 maps on the patch grid, before and after the affinity, as a CAM file has them: in
                   [0, 1], with some methods any numbers (docs/methods.md); of zsseg at the size of the probabilities
    probabilities  (k + 1, H', W') float32 after the CRF, the background first where there is one. (H', W') is the size
                   at which the image was worked on: its own, or with `max_side` as its longer side
    notes          what people should know, such as an image of one colour
    error          why there is none of this, in one line; empty where there is
    """

    classes: tuple[str, ...] = ()
    keys: np.ndarray | None = None
    mask: np.ndarray | None = None
    labels: np.ndarray | None = None
    cams: np.ndarray | None = None
    refined: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    notes: str = ""
    error: str = ""


class Pipeline:
    """Images and the names of what is in them -> masks. The model is loaded once. Not for several threads at once.

    model    a weight file or folder, or an open_clip name; None: the toy world's own CLIP for labels or classes of the
             toy world, else OpenAI's ViT-B/16, which open_clip downloads
    classes  names of which the labels will be some, so that mask values stay the same from call to call; or the path of
             a classes file. None: those of `dataset`, else the labels of each call are its classes
    options  of `pseudo-masks segment`, by name: method="sclip", dataset="voc12", device="cuda", confidence=0.9,
             scales=(0.75, 1.0), flip=True and so on

    Raises UserError, in one line, for options that cannot be used, and for a model that is not there. Weights that
    cannot be used and a missing package are told by the first call.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        classes: Sequence[str] | os.PathLike[str] | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> None:
        names = _names(classes, "classes") if isinstance(classes, list | tuple) else None
        path = None if names else classes
        self.args = parsed(segment.parse, ["photo"], {"model": model, "classes": path, **options})
        self.args.batch_size = _batch_size(batch_size)
        if SAM in self.args.refine:
            raise UserError("refine: votes of masks are for the commands; expected crf, pamr or none")
        if self.args.model and METHODS[self.args.method].load is None:
            check_model(self.args.model, self.args.pretrained)
        fixed = self.args.dataset is not None or self.args.classes is not None
        self._spec = _spec_of(self.args, names) if names else segment.choose_spec(self.args, None) if fixed else None
        self._models: dict[Any, Any] = {}
        self._works: OrderedDict[Any, tuple[CamWork, CrfJob]] = OrderedDict()

    def segment(self, image: Photo, labels: Sequence[str] | None = None) -> Result:
        """The result of one image; see `stream`. Raises UserError for an image that cannot be read."""
        (result,) = self.stream([image], labels)
        if result.error:
            raise UserError(result.error)
        return result

    def stream(self, images: Iterable[Photo], labels: Labels = None) -> Iterator[Result]:
        """A result an image, in order. A few images are drawn and worked on together; memory does not grow.

        images  paths (turned upright as EXIF says), PIL images, or (H, W, 3) uint8 arrays, RGB
        labels  names of what is in the images; or a function from an image to these, with `classes` or `dataset`. None
                or no names, of the function too: all classes with a method that needs no labels, else CLIP chooses
                among the classes (TagCLIP)

        An image that cannot be read, or is none, has a result with an `error`. Raises UserError for labels that are no
        classes.
        """
        if isinstance(images, str | os.PathLike | Image.Image) or (
            isinstance(images, np.ndarray) and images.ndim in (2, 3)
        ):
            raise UserError("images: one image; expected a list or another iterable of images, or use `segment`")
        if not isinstance(images, Iterable):
            raise UserError(f"images: {type(images).__name__}; expected a list or another iterable of images")
        if callable(labels) and self._spec is None:
            raise UserError("labels: a function goes with classes=[...] or dataset=, which fix the mask values")
        remaining = enumerate(images)
        size = max(CHUNK, 2 * (self.args.batch_size or 0))
        while chunk := list(islice(remaining, size)):
            yield from self._results(chunk, labels)

    def _results(self, images: Sequence[tuple[int, Photo]], labels: Labels) -> list[Result]:
        """The results of some images with their numbers."""
        with TemporaryDirectory(prefix="clip-pseudo-masks-") as folder, needed_packages():
            same = None if callable(labels) else _names(labels)
            spec = self._spec or segment.choose_spec(self.args, same)
            samples: dict[bool, list[Sample]] = {False: [], True: []}  # by whether CLIP supplies the labels
            results: dict[str, Result] = {}
            shown = {str(number): _name(image, number) for number, image in images}  # to people
            for number, image in images:
                names = _names(labels(image)) if callable(labels) else same
                keys = () if names is None else segment.label_indices(spec, names)
                try:
                    file = _file(image, Path(folder, f"{number}.bmp"))
                except UserError as refused:
                    results[str(number)] = Result(spec.classes, error=f"{shown[str(number)]}: {refused}")
                else:
                    samples[names is None].append(Sample(str(number), file, keys))
            for by_clip, some in samples.items():
                if some:
                    results |= self._computed(spec, some, by_clip)
                for sample in some:
                    error = results[sample.id].error.replace(str(sample.image), shown[sample.id])
                    results[sample.id] = replace(results[sample.id], error=error)
        return [results[str(number)] for number, _ in images]

    def _computed(self, spec: DatasetSpec, samples: list[Sample], by_clip: bool) -> dict[str, Result]:
        """The results by id."""
        method = METHODS[self.args.method]
        if by_clip and (method.unlabelled or method.scores is not None):
            samples, by_clip = [replace(sample, labels=tuple(range(len(spec.classes)))) for sample in samples], False
        cams, job = self._work(spec, by_clip)
        results: dict[str, Result] = {}

        def show(mapped: BatchImage, result: CrfResult) -> None:
            results[mapped.sample.id] = _result(spec, job, mapped, result)

        def settle(outcome: Outcome) -> None:
            if outcome.status == "failed":
                results[outcome.id] = Result(spec.classes, error=outcome.reason)
            elif outcome.note:
                results[outcome.id] = replace(results[outcome.id], notes=outcome.note)

        if by_clip:
            tagged = list(tags.tag_samples(tags.set_up(cams.clip, spec, Path(), tag_settings(self.args)), samples))
            for tag in tagged:
                settle(tag.outcome) if tag.scores is None else None
            samples = [tag.sample for tag in tagged if tag.scores is not None]
        for outcome in run.run(cams, job, samples, set(), job.empty_totals(), show=show):
            settle(outcome)
        return results

    def _work(self, spec: DatasetSpec, by_clip: bool) -> tuple[CamWork, CrfJob]:
        """The model with the embeddings of these classes, and what follows it; the last ones are kept."""
        key = spec.name, spec.classes, by_clip
        if key not in self._works:
            cams = cam_job(self.args, spec, Path(), by_clip)
            cams = replace(cams, model=KeptModel(**vars(cams.model), loaded=self._models), readers=0)
            crf = crf_job(self.args, spec, images=Path(), cams=Path(), out_dir=None, truth=None)
            self._works[key] = load_model(cams), replace(crf, max_side=self.args.max_side, smooth=True)
            if len(self._works) > KEPT:
                self._works.popitem(last=False)
        self._works.move_to_end(key)
        return self._works[key]


def _result(spec: DatasetSpec, job: CrfJob, mapped: BatchImage, result: CrfResult) -> Result:
    labels, mask = full_size(job, result)
    size = (result.labels.shape[0], result.labels.shape[1])
    cam, attn = (maps if isinstance(maps, np.ndarray) else resized_maps(maps, size) for maps in mapped.maps[:2])
    cam, attn = cam.astype(np.float32), attn.astype(np.float32)
    return Result(spec.classes, result.input.keys, mask, labels, cam, attn, result.probabilities)


def _names(names: object, argument: str = "labels") -> list[str] | None:
    """The names, each once; None where CLIP supplies them. Raises UserError for what are no names."""
    given = [names] if isinstance(names, str) else [] if names is None else names
    if not isinstance(given, Iterable):
        raise UserError(f"{argument}: {in_short(repr(names))}; expected a list of names")
    given = list(given)
    for name in given:
        if not isinstance(name, str):
            raise UserError(f"{argument}: {in_short(repr(name))} is no name; expected a list of names, as text")
    return segment.read_names(given)


def _batch_size(value: object) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1):
        raise UserError(f"batch_size: {in_short(repr(value))}; expected a whole number, 1 or more")
    return None if value is None else int(value)


def _spec_of(args: argparse.Namespace, names: list[str]) -> DatasetSpec:
    """The classes of these names in their order; the model and the words around them as for labels of these names."""
    words = segment.spec_of_words(names)
    spec = words if args.dataset is not None else segment.choose_spec(args, names)
    segment.label_indices(spec, names)
    return replace(spec, classes=words.classes, prompts=words.prompts, unseen=())


def _file(image: Photo, path: Path) -> Path:
    """The file of an image; one that has none yet is written to `path`, as its pixels are. Raises UserError."""
    if isinstance(image, str | os.PathLike):
        return Path(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UserError(f"an array {image.shape} of {image.dtype}; expected (H, W, 3) of uint8, RGB")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise UserError(f"{type(image).__name__}; expected a path, a PIL image or an array (H, W, 3), RGB")
    try:
        image.load()  # one that PIL opened is read now
        if image.mode != "RGB":  # such as 16 bits, or transparency
            path = path.with_suffix(".png")
        image.save(path, exif=b"") if image.mode != "RGB" else image.save(path)
    except (OSError, SyntaxError, ValueError) as error:
        if getattr(error, "errno", None):  # of the disk
            raise
        raise UserError(f"PIL says {in_short(error)}; expected an image that can be read, as RGB") from error
    return path


def _name(image: Photo, number: int) -> str:
    return str(image) if isinstance(image, str | os.PathLike) else f"image {number}"
