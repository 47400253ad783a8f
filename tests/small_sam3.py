"""Tiny random parts of SAM 3, in transformers' form."""

from pathlib import Path

import torch
import transformers


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
