"""The JSON files beside a model's weights: any bytes, any values."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip.folder import ModelConfig, WeightFiles, config_beside, weight_files
from tests.fuzz.support import any_bytes, read_or_refuse

pytestmark = pytest.mark.slow

SECTION = {"hidden_act": "gelu", "num_attention_heads": 2, "layer_norm_eps": 1e-05}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
VISION = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8}
FILES = {
    "config.json": {"model_type": "clip", "text_config": SECTION, "vision_config": SECTION, "text_config_dict": None},
    "open_clip_config.json": {
        "model_cfg": {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT, "quick_gelu": True},
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]},
    },
}
NAMES = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
INDEX = {"metadata": {}, "weight_map": dict(zip("ab", NAMES))}
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def read_config(path: Path) -> ModelConfig | None:
    return config_beside(WeightFiles((path,), path.parent), path.name == "config.json")


@pytest.mark.parametrize("name", FILES)
def test_any_bytes_in_a_config(name: str) -> None:
    whole = json.dumps(FILES[name]).encode()
    known = read_or_refuse(read_config, Path(name), whole)
    assert known is not None and known.activation in ("quick_gelu", "gelu")

    @given(any_bytes(whole))
    def any_bytes_there(data: bytes) -> None:
        config = read_or_refuse(read_config, Path(name), data)
        assert config is None or (
            config.activation in ("quick_gelu", "gelu") and all(type(n) is int for n in config.heads)
        )

    any_bytes_there()


@given(st.sampled_from(["hidden_act", "num_attention_heads", "layer_norm_eps"]), ODD)
def test_any_value_in_a_config(key: str, value: object) -> None:
    content = {**FILES["config.json"], "vision_config": {**SECTION, key: value}}
    config = read_or_refuse(read_config, Path("config.json"), json.dumps(content).encode())
    assert config is None or config.activation == "gelu"


@given(any_bytes(json.dumps(INDEX).encode()))
def test_any_bytes_in_an_index(data: bytes) -> None:
    """Whatever it names, no file outside its folder is read."""
    for name in NAMES:
        Path(name).touch()
    found = read_or_refuse(weight_files, Path("model.safetensors.index.json"), data)
    assert found is None or all(part.parent == Path() for part in found.parts)
