"""Class names of the three data sets that MaskCLIP was published with, as its prompts say them.

Label order of the data sets, background left out.
"""

from coco14 import cocostuff
from dataset.spec import DatasetSpec
from voc12 import context59, voc20


def _one_name(spec: DatasetSpec) -> tuple[str, ...]:
    return tuple(prompts[0] for prompts in spec.plain_prompts or spec.prompts)


VOC20 = _one_name(voc20.SPEC)
CONTEXT59 = _one_name(context59.SPEC)
STUFF171 = _one_name(cocostuff.SPEC)

CLASSES = {"voc": VOC20, "context": CONTEXT59, "stuff": STUFF171}
