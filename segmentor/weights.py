"""The weight file of a trained network: safetensors, with what it is as JSON in its header.

Nothing in it is run when it is read.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from common.errors import UserError
from common.files import atomic_write
from common.version import VERSION
from segmentor.networks import ARCHES, Segmentor, build
from segmentor.settings import HEADS, NORMALISATIONS

KEY = "segmentor"  # of the header's metadata
FORMAT = 1
EXPECTED = "expected a file of scripts/train_segmentor.py (weights.safetensors)"


@dataclass(frozen=True)
class Description:
    """The network in a weight file.

    labels          names by mask value; "background" first where there is one
    normalisation   of the images; one of segmentor.augment.NORMALISATIONS
    iterations      changes of the weights in training
    text_width, background  of the text head: see segmentor.networks.build
    """

    arch: str
    labels: tuple[str, ...]
    normalisation: str
    iterations: int
    head: str = "linear"
    code: str = VERSION
    text_width: int = 0
    background: bool = True

    def network(self) -> Segmentor:
        """A network of this kind with random weights."""
        return build(self.arch, len(self.labels), self.head, self.text_width, self.background)


def write_weights(path: Path, state: Mapping[str, Tensor], description: Description) -> None:
    """Write a network's state, whole or not at all."""
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    metadata = {KEY: json.dumps({"format": FORMAT, **asdict(description)})}
    with atomic_write(path) as stream:
        stream.write(save(tensors, metadata=metadata))


def read_weights(path: Path) -> tuple[Segmentor, Description]:
    """The network of a weight file, on the CPU in evaluation mode, and its description; raises UserError."""
    state, description = read_state(path)
    network = description.network()
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{path}: its tensors are not those of a {description.arch}; {EXPECTED}") from error
    return network.eval(), description


def read_state(path: Path) -> tuple[dict[str, Tensor], Description]:
    """The tensors and the description of a weight file; raises UserError, naming it, when it is another."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path}: no such weight file; {EXPECTED}")
    try:
        with safe_open(path, "pt") as opened:
            description = _description(path, opened.metadata() or {})
            return {name: opened.get_tensor(name) for name in opened.keys()}, description  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors; {EXPECTED}") from error


def _description(path: Path, metadata: Mapping[str, str]) -> Description:
    try:
        fields = dict(json.loads(metadata[KEY]))
        if fields.pop("format") != FORMAT:
            raise UserError(f"{path}: made by another version of this code ({fields.get('code')}); train it again")
        description = Description(**{**fields, "labels": tuple(map(str, fields["labels"]))})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: does not say which network it is; {EXPECTED}") from error
    for name, names in (("arch", ARCHES), ("head", HEADS), ("normalisation", NORMALISATIONS)):
        if getattr(description, name) not in tuple(names):
            raise UserError(f"{path}: its {name} {getattr(description, name)!r} is unknown here; {EXPECTED}")
    return description
