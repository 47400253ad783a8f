"""Models that are no plain CLIP, with the weight names that their libraries give them, are refused in one line."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP

from clip.archive import read_weights
from clip.load import load_clip
from common.errors import UserError

pytestmark = pytest.mark.slow  # builds the models of two libraries

OPEN_CLIP = {
    "EVA01-g-14": "EVA-CLIP: its image tower is EVA's transformer",
    "EVA02-B-16": "EVA-CLIP: its image tower is EVA's transformer",
    "ViT-B-16-SigLIP": "SigLIP: its image tower has no class token and pools by attention",
    "ViT-B-16-SigLIP2": "SigLIP: its image tower has no class token and pools by attention",
    "coca_ViT-B-32": "CoCa: its image tower pools by attention, and it has a text decoder",
    "convnext_base_w": "ConvNeXt-CLIP: its image tower is a ConvNeXt",
    "MobileCLIP-B": "its image tower begins with convolutions",
    "PE-Core-B-16": "its image tower pools by attention",
    "swin_base_patch4_window7_224": "its image tower is one of timm's",
    "ViT-L-14-CLIPA": "CLIPA: its image tower has no layer norm before the blocks",
    "ViT-L-14-worldwide": "a vocabulary of 250100 tokens: of another tokenizer than CLIP's",
}
HUGGING_FACE = {
    "SiglipModel": "SigLIP: its image tower has no class token and pools by attention",
    "Siglip2Model": "SigLIP: its image tower has no class token and pools by attention",
    "ChineseCLIPModel": "its text tower is a BERT",
    "AltCLIPModel": "AltCLIP: its text tower is an XLM-RoBERTa",
    "OwlViTModel": "OWL-ViT: its image tower was made for detection",
    "GroupViTModel": "GroupViT: its image tower groups patches",
    "CLIPTextModelWithProjection": "a text tower alone",
    "CLIPVisionModelWithProjection": "an image tower alone",
    "SegformerForSemanticSegmentation": "a SegFormer, a segmentation network",
    "SamModel": "SAM, which has no text tower",
    "Dinov2Model": "a ViT without a text tower",
}


def open_clip_made(name: str) -> torch.nn.Module:
    config = open_clip.get_model_config(name)
    custom = config.pop("custom_text", False)
    made: Any = CoCa if "multimodal_cfg" in config else CustomTextCLIP if custom else CLIP
    with torch.device("meta"):  # only names and shapes matter
        return made(**config)


def transformers_made(name: str) -> torch.nn.Module:
    made: Any = getattr(transformers, name)
    with torch.device("meta"):
        return made(made.config_class())


def refused(model: torch.nn.Module, path: Path) -> str:
    """What is said of the model's weights, all zero and of its shapes, which take no room on the disk."""
    torch.save({name: torch.zeros(()).expand(value.shape) for name, value in model.state_dict().items()}, path)
    with pytest.raises(UserError) as caught:
        load_clip(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_open_clips_other_models(tmp_path: Path, name: str) -> None:
    assert OPEN_CLIP[name] in refused(open_clip_made(name), tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HUGGING_FACE)
def test_transformers_other_models(tmp_path: Path, name: str) -> None:
    assert HUGGING_FACE[name] in refused(transformers_made(name), tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (
            ["base_model.model.vision_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"],
            "LoRA weights .* not merged",
        ),
        (["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"], "LoRA weights that are not merged"),
        (["prompt_learner.ctx", "image_encoder.conv1.weight"], r"prompts that were learned for a CLIP \(CoOp\)"),
        (["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.x"], "Stable Diffusion"),
        (["visual.blocks.0.mlp.w1.weight", "visual.patch_embed.proj.weight", "logit_scale"], "EVA-CLIP"),
        (["bert.embeddings.word_embeddings.weight", "visual.conv1.weight"], "Chinese-CLIP"),
        (["layer1.0.conv1.weight", "fc.weight"], "a ResNet without a text tower"),
        (["fc1.weight", "fc2.weight"], r"found state_dict\.fc1\.weight"),
        (["visual.conv1.weight", "visual.proj"], "an image tower alone"),
    ],
)
def test_what_people_take_for_a_clip(tmp_path: Path, names: list[str], complaint: str) -> None:
    """Names as peft, kohya, CoOp, EVA and others write them."""
    torch.save({"state_dict": {name: torch.zeros(2) for name in names}}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=complaint):
        read_weights(tmp_path / "w.pt")
