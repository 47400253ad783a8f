"""Tiny random SAM and SAM 3, saved in transformers' form."""

from pathlib import Path

import torch
import transformers


def parts_of(*configs: transformers.PretrainedConfig) -> dict[str, dict]:
    names = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    return {name: config.to_dict() for name, config in zip(names, configs)}


def save_sam(folder: Path) -> None:
    """SAM, for photos with a long side of 64 pixels."""
    vision = transformers.SamVisionConfig(
        hidden_size=16, output_channels=16, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=8,
        mlp_dim=32, global_attn_indexes=[0], window_size=4, num_pos_feats=8,
    )  # fmt: skip
    prompts = transformers.SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4)
    masks = transformers.SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    config = transformers.SamConfig(**parts_of(vision, prompts, masks))
    transformers.SamModel(config).save_pretrained(folder)
    sides = {"height": 64, "width": 64}, {"height": 16, "width": 16}
    transformers.SamImageProcessor(
        size={"longest_edge": 64}, pad_size=sides[0], mask_size={"longest_edge": 16}, mask_pad_size=sides[1]
    ).save_pretrained(folder)


def sam3_vision() -> transformers.Sam3VisionConfig:
    """An image tower for squares of 56 pixels."""
    vit = transformers.Sam3ViTConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14,
        window_size=2, global_attn_indexes=[1], pretrain_image_size=28,
    )  # fmt: skip
    sizes = [[16, 16], [8, 8], [4, 4]]
    return transformers.Sam3VisionConfig(
        backbone_config=vit.to_dict(), fpn_hidden_size=16, backbone_feature_sizes=sizes
    )


def save_sam3(folder: Path) -> None:
    """A whole SAM 3, but for its tokenizer, which is CLIP's."""
    text = transformers.CLIPTextConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, projection_dim=16,
        max_position_embeddings=32, vocab_size=49408,
    )  # fmt: skip
    sizes = {"hidden_size": 16, "num_attention_heads": 2}
    layers = {**sizes, "num_layers": 1, "intermediate_size": 32}
    config = transformers.Sam3Config(
        vision_config=sam3_vision().to_dict(),
        text_config=text.to_dict(),
        geometry_encoder_config=transformers.Sam3GeometryEncoderConfig(**layers).to_dict(),
        detr_encoder_config=transformers.Sam3DETREncoderConfig(**layers).to_dict(),
        detr_decoder_config=transformers.Sam3DETRDecoderConfig(**layers, num_queries=5).to_dict(),
        mask_decoder_config=transformers.Sam3MaskDecoderConfig(**sizes).to_dict(),
    )
    torch.manual_seed(0)
    network = transformers.Sam3Model(config)
    with torch.no_grad():
        for weight in network.parameters():  # else all texts look alike
            weight.add_(0.3 * torch.randn_like(weight))
    network.save_pretrained(folder)
