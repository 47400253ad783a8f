"""What a weight file holds when it is not a CLIP that this code can run, told by the names of its weights."""

from collections.abc import Iterable

SEGCLIP = "visual.transformer.semantic_layer2.semantic_center"  # a weight that only a SegCLIP has

Table = tuple[tuple[tuple[str, ...], str], ...]

# Parts of names, and what has weights with all of these in their names; the first that fits is taken.
# CLIPs with another part or in another encoding, and what is added to a CLIP.
LIKE_CLIP: Table = (
    (("lora_",), "LoRA weights that are not merged: they change a CLIP; merge them into it and save the whole model"),
    ((".lora.",), "LoRA weights that are not merged: they change a CLIP; merge them into it and save the whole model"),
    (("mlp.c_fc.theta",), "weights in parts of length and direction (GmP); convert them to plain weights first"),
    ((".SCB",), "quantised weights (bitsandbytes); expected float32, float16 or bfloat16"),
    ((".quant_state",), "quantised weights (bitsandbytes); expected float32, float16 or bfloat16"),
    ((".qweight",), "quantised weights; expected float32, float16 or bfloat16"),
    ((SEGCLIP,), "the weights of a SegCLIP, which goes with --method segclip"),
    (("text_decoder.", "visual."), "CoCa: its image tower pools by attention, and it has a text decoder"),
    (("visual.trunk.", "logit_bias"), "SigLIP: its image tower has no class token and pools by attention"),
    (("vision_model.head.probe",), "SigLIP: its image tower has no class token and pools by attention"),
    (("text_model.head.weight",), "SigLIP: its text tower ends in a head of its own"),
    (("visual.trunk.", ".attn.q_bias"), "EVA-CLIP: its image tower is EVA's transformer, not CLIP's"),
    (("visual.trunk.", ".mlp.fc1_g."), "EVA-CLIP: its image tower is EVA's transformer, not CLIP's"),
    (("visual.blocks.", "visual.patch_embed."), "EVA-CLIP: its image tower is EVA's transformer, not CLIP's"),
    (("visual.trunk.", ".conv_dw."), "ConvNeXt-CLIP: its image tower is a ConvNeXt, not a ViT"),
    (("visual.trunk.patch_embed.backbone.",), "its image tower begins with convolutions (MobileCLIP, ViTamin)"),
    (("visual.trunk.attn_pool.",), "its image tower pools by attention (PE, SigLIP)"),
    (("visual.trunk.",), "its image tower is one of timm's, not CLIP's ViT"),
    (("image_encoder.model.patch_emb",), "MobileCLIP: its image tower begins with convolutions"),
    (("vision_model.pre_layernorm.", "text_model."), "OWL-ViT: its image tower was made for detection"),
    (("vision_model.encoder.stages.", "text_model."), "GroupViT: its image tower groups patches"),
    (("visual_encoder.",), "BLIP or ALBEF: its text tower is a BERT"),
    (("text_model.embeddings.word_embeddings.",), "its text tower is a BERT (Chinese-CLIP, BLIP, ALIGN)"),
    (("text_model.roberta.",), "AltCLIP: its text tower is an XLM-RoBERTa"),
    (("bert.embeddings.", "visual."), "Chinese-CLIP: its text tower is a BERT"),
    (("text.transformer.embeddings.",), "its text tower is a BERT or RoBERTa"),
    (("text.transformer.shared.",), "its text tower is a T5 or NLLB"),
    (("text.transformer.encoder.",), "its text tower is a language model of Hugging Face"),
    (
        ("prompt_learner.",),
        "prompts that were learned for a CLIP (CoOp), not the CLIP; pass the CLIP they were made for",
    ),
)
OTHERS: Table = (
    (("segformer.",), "a SegFormer, a segmentation network"),
    (("decode_head.",), "a segmentation network"),
    (("backbone.", "classifier."), "a segmentation network"),
    (("mask_decoder.",), "SAM, which has no text tower"),
    (("model.diffusion_model.",), "Stable Diffusion"),
    (("down_blocks.", "up_blocks."), "the U-Net of a diffusion model"),
    (("cls_token", "patch_embed.proj."), "a ViT without a text tower, such as DINO's"),
    (("embeddings.cls_token", "embeddings.patch_embeddings."), "a ViT without a text tower, such as DINO's"),
    (("layer1.0.conv1.weight", "fc.weight"), "a ResNet without a text tower"),
    (("embeddings.word_embeddings.",), "a language model without an image tower"),
    (("lm_head.",), "a language model"),
)


def what_it_is(names: Iterable[str], like_clip: bool = False) -> str:
    """What weights of these names belong to; empty for a plain CLIP and for what is not known.

    like_clip  whether there is a CLIP's first weight of both towers among them
    """
    text = "\n".join(names)
    table = LIKE_CLIP if like_clip else LIKE_CLIP + OTHERS
    return next((what for parts, what in table if all(part in text for part in parts)), "")
