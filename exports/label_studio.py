"""Label Studio's pre-annotations: a task an image, a brush region an object, with scores; and a labeling configuration.

Its brush masks have run lengths of their own, of RGBA pixels row by row, in the bits of a list of bytes:
32 bits for the number of values, 5 for the bits of a value less 1, 4 times 4 for the bits of four kinds of lengths less
1; then runs: a bit 1, 2 bits for the kind of length, the length less 1, the value.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from common.files import write_text
from dataset.palettes import voc_palette
from exports.files import Add, Example, Format, Job
from exports.objects import Object, objects_of

MODEL = "pseudo masks"
SIZES = (3, 4, 8, 16)  # bits of a length
LONGEST = 1 << SIZES[-1]


@contextmanager
def writing(job: Job) -> Iterator[Add]:
    """images/, tasks.json, config.xml. Images are local files below the folder above the output folder."""
    tasks = []
    root = quote(job.out.resolve().name)

    def add(example: Example) -> None:
        place = job.place_image(example, f"images/{example.part}")
        results = [
            _region(number, one, example, job.labels[one.value])
            for number, one in enumerate(objects_of(example.labels, job.classes))
        ]
        prediction: dict[str, Any] = {"model_version": MODEL, "result": results}
        if scores := [mean for value, mean in example.confidence.items() if value in job.classes]:
            prediction["score"] = round(sum(scores) / len(scores), 3)
        data = {"image": f"/data/local-files/?d={root}/{quote(place)}", "id": example.id, "part": example.part}
        tasks.append({"data": data, "predictions": [prediction]})

    yield add
    write_text(job.path("tasks.json"), json.dumps(tasks))
    write_text(job.path("config.xml"), _config(job))


def _region(number: int, one: Object, example: Example, name: str) -> dict[str, Any]:
    """The brush region of one object."""
    height, width = example.labels.shape
    result = {
        "id": f"object{number}",
        "type": "brushlabels",
        "from_name": "class",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": brush_run_lengths(one.full((height, width))), "brushlabels": [name]},
    }
    return result | ({"score": example.confidence[one.value]} if one.value in example.confidence else {})


def brush_run_lengths(mask: np.ndarray) -> list[int]:
    """An (H, W) uint8 mask of 0 and 1 as the bytes of a brush region: its pixels have the value 255 in RGBA."""
    flat = mask.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = 4 * np.diff(np.append(starts, len(flat)))
    bits = [f"{4 * len(flat):032b}{8 - 1:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    for start, length in zip(starts.tolist(), lengths.tolist()):
        value = 255 * int(flat[start])
        while length:
            run = min(length, LONGEST)
            kind = next(index for index, size in enumerate(SIZES) if run <= 1 << size)
            bits.append(f"1{kind:02b}{run - 1:0{SIZES[kind]}b}{value:08b}")
            length -= run
    text = "".join(bits)
    return np.packbits(np.frombuffer(text.encode(), np.uint8) - ord("0")).tolist()


def _config(job: Job) -> str:
    """The labeling interface: the image, and a brush for each class in its colour."""
    lines = [
        "<View>",
        '  <Image name="image" value="$image" zoom="true"/>',
        '  <BrushLabels name="class" toName="image">',
    ]
    for value, name in job.classes.items():
        colour = "#{:02x}{:02x}{:02x}".format(*voc_palette()[value + (not job.has_background)].tolist())
        lines.append(f'    <Label value={quoteattr(name)} background="{colour}"/>')
    return "\n".join([*lines, "  </BrushLabels>", "</View>", ""])


FORMAT = Format(writing, "tasks.json", keeps_255=False, links=False)
