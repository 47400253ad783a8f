"""The other network of methods that take one: DINO, DINOv2 or DINOv3, by transformers, from a folder or the hub."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from common.arguments import option

if TYPE_CHECKING:
    import torch

    from pipeline.steps.other_network import PatchNetwork

KINDS = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")  # DINO's own is a ViT
FILES = "config.json and model.safetensors"
UNUSED = "pooler."  # weights that DINO's files do not have

DINO = option(
    None,
    "DINO, DINOv2 or DINOv3: a folder in transformers' form or a name such as facebook/dino-vitb8",
    type=str,
    metavar="DIR|NAME",
)


@lru_cache(maxsize=2)  # one on the GPU, and one on the CPU for what finds no room there
def network_of(name: str | None, device: torch.device) -> PatchNetwork:
    """The network on its device. Raises UserError for anything that is not one."""
    from zsseg.proposals.hub import load_pretrained

    def made(name: str, local_files_only: bool) -> PatchNetwork:
        import torch
        from transformers import AutoModel

        from common.errors import UserError
        from pipeline.steps.other_network import PatchNetwork

        network, found = AutoModel.from_pretrained(
            name,
            local_files_only=local_files_only,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        missing = sorted(key for key in found["missing_keys"] if not key.startswith(UNUSED))
        if missing:
            raise UserError(f"--dino {name}: weight {missing[0]} is missing ({len(missing)} in all); a damaged folder")
        config = network.config
        before = 1 + int(getattr(config, "num_register_tokens", 0) or 0)
        network = network.to(device).eval().requires_grad_(False)
        return PatchNetwork(network, int(config.patch_size), before, config.model_type == "vit")

    return load_pretrained(name, made, "--dino", KINDS, FILES)


def identity_of(name: str | None) -> Any:
    """What tells the weights of a folder from others, for records."""
    from zsseg.proposals import hub

    return hub.identity_of(name)
