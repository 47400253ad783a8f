"""How the toy world's CLIP is trained: words first, then phases of growing images, on the loop of training/."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.version import VERSION
from toyworld.captions import CONCEPTS, caption
from toyworld.training.captions import Vocabulary
from toyworld.training.data import Lesson, Lessons, Phase
from toyworld.training.losses import image_losses, patch_losses
from toyworld.training.model import Architecture, ToyClip
from training import loop
from training.ranks import Ranks
from training.schedule import cosine
from training.state import fresh_state, resume

WORD_STEPS, WORD_RATE = 120, 2e-3
PEAK_RATE, FINAL_SHARE, WARM_UP_STEPS = 1e-3, 0.02, 100
WEIGHT_DECAY, GRADIENT_NORM = 0.05, 1.0
SAVE_EVERY = 100


def teach_words(model: ToyClip, words: Vocabulary, rng: np.random.Generator) -> None:
    """Train the text tower alone until captions of different content point in different directions.

    A caption's target is the mean of fixed random orthogonal codes of its concepts. Untrained, all captions are alike
    (cosine 0.9), and the image tower sits on a plateau for some 50,000 images before it tells the objects apart.
    """
    codes = torch.linalg.qr(torch.randn(model.text_projection.shape[1], len(CONCEPTS)))[0].T  # (C, E)
    optimizer = torch.optim.AdamW(model.parameters(), lr=WORD_RATE, weight_decay=0.0)
    for _ in range(WORD_STEPS):
        mixed = rng.random((48, len(CONCEPTS))) < 0.2
        named = np.concatenate([np.eye(len(CONCEPTS), dtype=bool), mixed[mixed.any(1)]])
        features = model.encode_text(*words.rows([caption(rng, row) for row in named]))
        targets = F.normalize(torch.from_numpy(named).float() @ codes, dim=-1)
        optimizer.zero_grad()
        (1 - (features * targets).sum(-1)).mean().backward()
        optimizer.step()


def objective(network: nn.Module, batch: Lesson) -> dict[str, Tensor]:
    """The weighted sum of all losses as "loss", each loss by the name that its weight has, and the learned scale."""
    assert isinstance(network, ToyClip)
    features, weights = network.encode_text(batch.tokens, batch.ends), batch.weights  # (T, E)
    output, scale = network.visual(batch.images, maps=weights.affinity > 0), network.logit_scale.exp()
    losses = image_losses(output, features, batch.matches, scale)
    losses |= patch_losses(output, features[: batch.present.shape[1]], batch.present, scale, weights.reach)
    loss = torch.stack([getattr(weights, name) * value for name, value in losses.items()]).sum()
    return {"loss": loss, **losses, "scale": scale}


def train(
    sizes: Architecture, phases: tuple[Phase, ...], seed: int, processes: int, out: Path
) -> tuple[ToyClip, Vocabulary]:
    """Train from scratch, or go on from the last checkpoint in `out`, where the log goes too.

    The same seed gives the same weights on the same machine.
    """
    torch.manual_seed(seed)
    rng, words = np.random.default_rng(seed), Vocabulary()
    model = ToyClip(sizes, len(words.token_ids))
    teach_words(model, words, rng)

    def kind(name: str, parameter: nn.Parameter) -> tuple[float, float]:
        """Matrices decay, embeddings and vectors do not."""
        return 1.0, WEIGHT_DECAY if parameter.ndim >= 2 and "embedding" not in name else 0.0

    optimizer = torch.optim.AdamW(loop.parameter_groups(model, kind), lr=PEAK_RATE, betas=(0.9, 0.98), fused=True)
    state = fresh_state(model, optimizer, Lessons(phases, words, rng, processes))
    total = sum(phase.steps for phase in phases)
    warmup = min(WARM_UP_STEPS, total // 10 + 1)
    training = loop.Training(
        objective,
        partial(cosine, base=PEAK_RATE, total=total, final_share=FINAL_SHARE, warmup=warmup),
        total,
        out,
        {"seed": seed, "steps": total, "code": VERSION},
        seed,
        clip_norm=GRADIENT_NORM,
        save_every=SAVE_EVERY,
        after_step=model.cap_scale,
    )
    resume(out, state, training.settings, "pass another --log_dir")
    loop.train(training, state, Ranks(torch.device("cpu")))
    return model, words
