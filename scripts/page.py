"""A page to try photos on: words, a method, thresholds as sliders, the stages side by side, the mask to take away.

python -m scripts.page                                            # the toy world's CLIP, on http://127.0.0.1:7860
python -m scripts.page --model ViT-B-16.pt                        # any words
"""

import argparse
import socket
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cli import console, model_options
from cli.options import DATASETS, Parser
from common.arguments import count
from common.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated, UserError
from common.package import how_to_install
from pipeline.methods.method import CamSettings, SharedSettings
from pipeline.methods.table import METHODS
from pipeline.stages.refine import SAM

if TYPE_CHECKING:
    from dataset.spec import DatasetSpec
    from pipeline.stages.batches import BatchImage
    from pipeline.stages.cams import CamWork, ModelSource
    from pipeline.stages.crf import CrfJob, CrfResult
    from pipeline.stages.one_photo import OnePhoto
    from report.live_page import Asked
    from report.photo_stages import PhotoStages

MOST_WORDS = 20
MOST_PIXELS = 100_000_000  # of a photo: several people share the memory
KEPT_BYTES = 512 << 20  # of photos that were looked at
KEPT_WORDS = 8  # sets of words, with their embeddings
REGION_PACKAGES = ("skimage", "transformers")  # that methods of regions import
KEPT_MASKS = 8  # files that wait to be fetched
EXAMPLES = 3  # a row of them
SLIDERS = {  # what people read at the settings that methods let them move
    "box_threshold": ("Box threshold", "share of a CAM's maximum that enters a box"),
    "prob_threshold": ("Least probability", "pixels whose best word has less become background"),
    "area_threshold": ("Least share", "words with at most this share of all words' pixels go"),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "A page in the browser: a photo and words -> CAMs, refined maps, labels, mask, with thresholds as sliders.",
        "Masks are those of scripts.segment with the same options. Nothing is sent anywhere; who reaches the address "
        "can use the page. Ctrl-C ends it and removes what was sent to it. Needs gradio: " + how_to_install("page"),
    )
    page = parser.add_argument_group("page")
    page.add_argument("--host", default="127.0.0.1", help="0.0.0.0: other machines reach the page too")
    page.add_argument("--port", type=count, default=7860, help="0: a free one")
    names = parser.add_argument_group("names and prompts")
    names.add_argument("--dataset", choices=DATASETS, help="of a data set; not given: toyworld, or any words")
    names.add_argument("--classes", type=Path, metavar="FILE", help="of a classes file, as for --dataset folder")
    model_options.add_model_options(parser)
    model_options.add_method_options(parser, {"max_side": 640})  # as scripts.segment
    model_options.add_crf_options(parser)
    parser.set_defaults(labels=["all"], overwrite=True, palette=True)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    if find_spec("gradio") is None:
        raise UserError(f"the page needs gradio, which is not installed: {how_to_install('page')}")
    if SAM in args.refine:
        raise UserError("--refine sam: masks that vote take too long for a page; leave sam out")
    port = free_port(args.host, args.port)
    from report import live_page

    with live_page.temporary_folder() as folder:
        studio = PhotoStudio(args, folder)
        page = live_page.build(studio)
        print(f"model   {studio.model}")
        print(f"methods {', '.join(studio.methods)}")
        address = live_page.serve(page, args.host, port)
        print(f"page    {address} (Ctrl-C ends it)", flush=True)
        try:
            while not threading.Event().wait(1):
                console.check_signals()
        except KeyboardInterrupt as error:
            print("page closed")
            return EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_INTERRUPTED
        finally:
            page.close(verbose=False)
    return 0


def free_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises UserError where the page cannot be served there."""
    try:
        with socket.create_server((host, port)) as server:
            return int(server.getsockname()[1])
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: no page can be there ({reason}); choose another") from error


class PhotoStudio:
    """What the page of report/live_page.py asks: the stages of photos, one at a time, with what was made kept."""

    methods: Sequence[str]
    classes: Sequence[str]
    background: bool | None
    examples: Sequence[tuple[Path, str]]
    sliders: Mapping[str, tuple[str, str]]

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        """Load the model. `folder` takes the masks and the examples. Raises UserError."""
        from pipeline.stages.one_photo import Photos

        self._args, self._folder = args, folder
        self._spec = _fixed_spec(args)  # None: any words
        self._works: OrderedDict[object, CamWork] = OrderedDict()
        self._masks: deque[Path] = deque()
        self._photos = Photos(KEPT_BYTES)
        self._lock = threading.Lock()
        self._model: ModelSource | None = None
        self.classes = self._spec.classes if self._spec is not None else ()
        self.background = None if self._spec is not None and not self._spec.has_background else True
        self.confidence = self._crf_job(self._usual_spec()).confidence
        self.model = self._work(self._usual_spec(), args.method).clip.describe()
        self.methods = [args.method, *(name for name in METHODS if name != args.method and self._fits(name))]
        late = [METHODS[name].late for name in self.methods]
        self.sliders = {name: SLIDERS.get(name, (name, "")) for one in late if one for name in one.names}
        self.examples = self._draw_examples()

    def defaults(self, method: str) -> Mapping[str, float]:
        """The settings of a method that can be moved, and where they stand by themselves."""
        from pipeline.stages.one_photo import late_steps

        with self._lock:
            work = self._work(self._usual_spec(), method)
        late = late_steps(work)
        return {name: getattr(work.settings.options, name) for name in (late.names if late else ())}

    def stages(self, asked: "Asked") -> "PhotoStages":
        """What was made of the photo, with the settings as asked."""
        with self._lock:
            photo, spec, notes = self._photo(asked)
            job = _moved(self._crf_job(spec), asked)
            result = photo.result(job, asked.options)
            maps = photo.maps(asked.options)[1]
            self._photos.shrink()
            return _stages(job, spec, maps, result, notes)

    def mask(self, asked: "Asked") -> Path:
        """The mask as scripts.segment writes it, in colours; the file is removed after some more of them."""
        import tempfile

        with self._lock:
            photo, spec, _ = self._photo(asked)
            folder = Path(tempfile.mkdtemp(dir=self._folder))
            job = replace(_moved(self._crf_job(spec), asked), out_dir=folder)
            photo.write(job, asked.options)
            self._photos.shrink()
            self._masks.append(job.target(photo.sample.id))
            if len(self._masks) > KEPT_MASKS:
                oldest = self._masks.popleft()
                oldest.unlink(missing_ok=True)
                oldest.parent.rmdir()
            return self._masks[-1]

    def _photo(self, asked: "Asked") -> tuple["OnePhoto", "DatasetSpec", list[str]]:
        """The photo with its words, and what people should know of these. Raises UserError."""
        from cli.jobs import unknown_words_of
        from common.images import image_size
        from common.provenance import source_of
        from dataset.spec import Sample
        from pipeline.stages.one_photo import OnePhoto

        names = read_words(asked.words, "no words: say what the photo shows, such as " + self._such_as())
        spec, labels = self._spec_and_labels(names, asked)
        height, width = image_size(asked.photo)
        if height * width > MOST_PIXELS:
            raise UserError(
                f"{asked.photo.name}: {width} x {height} pixels, at most {MOST_PIXELS // 10**6} million are taken "
                "here; make it smaller, or use scripts.segment"
            )
        work = self._work(spec, asked.method)
        sample = Sample(asked.photo.stem, asked.photo, labels)
        key = (asked.method, _key(spec), labels, asked.photo, source_of(asked.photo))
        unknown = unknown_words_of(work)
        notes = [f"the model never saw these words: {', '.join(unknown)}"] if unknown else []
        return self._photos.get(key, lambda: OnePhoto(work, sample)), spec, notes

    def _spec_and_labels(self, names: list[str], asked: "Asked") -> tuple["DatasetSpec", tuple[int, ...]]:
        from scripts.segment import label_indices, spec_of_words

        spec = self._spec if self._spec is not None else spec_of_words(names)
        labels = label_indices(spec, names)
        if self.background is None:
            return spec, labels
        if not asked.has_background:
            return replace(spec, has_background=False, background_prompts=()), labels
        around = tuple(read_words(asked.around))
        return replace(spec, background_prompts=around) if around else spec, labels

    def _work(self, spec: "DatasetSpec", method: str) -> "CamWork":
        """The method with its model and the words' embeddings."""
        from cli.jobs import cam_job
        from pipeline.stages.cams import set_up
        from pipeline.stages.one_photo import KeptModel

        key = (method, _key(spec))
        if key not in self._works:
            job = cam_job(self._args, spec, self._folder, by_clip=False)
            if self._model is None:
                self._model = KeptModel(**vars(job.model))
            job = replace(job, model=self._model, settings=self._settings(method))
            self._works[key] = set_up(job)
            if len(self._works) > KEPT_WORDS:
                self._works.popitem(last=False)
        self._works.move_to_end(key)
        return self._works[key]

    def _fits(self, method: str) -> bool:
        """Whether a method can do with the model, without more options."""
        asked = METHODS[method]
        if self._model is None or asked.load is not None or METHODS[self._args.method].load is not None:
            return False  # one of them has a model of its own
        try:
            clip = self._model.load(resnets=asked.resnets)
            if asked.regions is not None:  # `complete` would import the networks that propose regions
                return all(map(find_spec, REGION_PACKAGES))
            options = self._settings(method).options
            asked.complete(clip, self._usual_spec(), options or asked.settings())
        except UserError:
            return False
        return True

    def _settings(self, method: str) -> CamSettings:
        """Those of the command line; of other methods than --method the shared ones alone."""
        if method == self._args.method:
            return model_options.cam_settings(self._args)
        shared = {field.name: getattr(self._args, field.name) for field in fields(SharedSettings)}
        return model_options.cam_settings(argparse.Namespace(method=method, **shared))

    def _crf_job(self, spec: "DatasetSpec") -> "CrfJob":
        """As in scripts.segment: worked on at --max_side, with smooth borders."""
        from cli.jobs import crf_job

        job = crf_job(self._args, spec, images=self._folder, cams=self._folder, out_dir=None, truth=None)
        return replace(job, max_side=self._args.max_side, smooth=True, mask_ending="_mask.png")

    def _usual_spec(self) -> "DatasetSpec":
        from scripts.segment import spec_of_words

        return self._spec if self._spec is not None else spec_of_words(["object"])

    def _such_as(self) -> str:
        return ", ".join(self.classes[:2]) if self.classes else "dog, person"

    def _draw_examples(self) -> list[tuple[Path, str]]:
        """Scenes of the toy world, where its words are known."""
        from toyworld.layout import write_dataset
        from toyworld.scenes import draw_scene
        from toyworld.spec import DEMO_SEED

        scenes = [draw_scene(DEMO_SEED, index) for index in range(EXAMPLES)]
        if self._spec is not None and not {name for scene in scenes for name in scene.classes} <= set(self.classes):
            return []
        ids = write_dataset(self._folder / "examples", DEMO_SEED, EXAMPLES)
        folder = self._folder / "examples" / "JPEGImages"
        return [(folder / f"{one}.jpg", ", ".join(scene.classes)) for one, scene in zip(ids, scenes)]


def read_words(text: str, without: str = "") -> list[str]:
    """The words of a line, by commas, semicolons or lines, each once.

    without  the error where there is none. Raises UserError for that, for too many, and for very long ones.
    """
    from dataset.names import MAX_NAME, plain_name

    words = [plain_name(word) for line in text.replace(";", ",").splitlines() for word in line.split(",")]
    words = list(dict.fromkeys(filter(None, words)))
    if not words and without:
        raise UserError(without)
    if len(words) > MOST_WORDS:
        raise UserError(f"{len(words)} words: at most {MOST_WORDS} at once; name what the photo shows")
    if long := [word for word in words if len(word) > MAX_NAME]:
        raise UserError(f"{long[0][:40]}...: a word of {len(long[0])} letters; words are separated by commas")
    return words


def _fixed_spec(args: argparse.Namespace) -> "DatasetSpec | None":
    """The classes of --classes, --dataset or the toy world; None: any words, for a model of one's own."""
    from cli.datasets import FOLDER
    from cli.lookup import dataset_spec

    if args.dataset is not None or args.classes is not None:
        return dataset_spec(args.dataset or FOLDER, args.classes)
    return dataset_spec("toyworld") if args.model is None else None


def _moved(job: "CrfJob", asked: "Asked") -> "CrfJob":
    return replace(job, cam_type=asked.cam_type, confidence=asked.confidence)


def _key(spec: "DatasetSpec") -> tuple[str, bool]:
    from pipeline.files.cam_file import spec_fingerprint

    return spec_fingerprint(spec), spec.has_background


def _stages(
    job: "CrfJob", spec: "DatasetSpec", maps: "BatchImage", result: "CrfResult", notes: Sequence[str]
) -> "PhotoStages":
    """The stages for people, at the size at which the CRF works."""
    from pipeline.stages.refine import CRF
    from pipeline.steps.kinds import to_heat
    from pipeline.steps.masks import confident, mask_values, mean_confidence
    from pipeline.steps.regions import resized_maps
    from report.photo_stages import PhotoStages

    image = result.input
    working = (image.rgb.shape[0], image.rgb.shape[1])
    cam, attn = (to_heat(resized_maps(one, working), image.kind) for one in maps.maps[:2])
    values = mask_values(image.keys, job.has_background)[int(job.has_background) :]
    return PhotoStages(
        image.rgb,
        cam,
        attn,
        values.tolist(),
        result.labels,
        confident(result.labels, result.probabilities, job.confidence),
        mean_confidence(result.labels, result.probabilities),
        spec.label_names,
        job.has_background,
        image.size,
        [*notes, *result.notes],
        "the CRF" if CRF in job.steps else "refinement",
    )


if __name__ == "__main__":
    sys.exit(main())
