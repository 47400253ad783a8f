"""FreeCP's choice of classes (Chen et al., ICCV 2025): which a window does not show, and which are taken for another.

M windows, C classes.
"""

import torch
from torch import Tensor


def redundancy(probabilities: Tensor, refined: Tensor) -> Tensor:
    """(M, C) in [0, 0.5]: how much of a class's probabilities (M, C, h, w) its refined map keeps."""
    both = (probabilities * refined).sum(dim=(2, 3))
    return both / (probabilities.sum(dim=(2, 3)) + refined.sum(dim=(2, 3)) + 1e-8)


def overlaps(maps: Tensor) -> Tensor:
    """(M, C, C): soft intersection over union of maps (M, C, h, w); 0 where both are 0 everywhere."""
    flat = maps.flatten(2)
    rows = []
    for one in flat.unbind(dim=1):  # (M, C, C, N) at once would be large
        both, either = (torch.minimum, torch.maximum)
        share = both(one[:, None], flat).sum(dim=-1) / either(one[:, None], flat).sum(dim=-1).clamp(min=1e-8)
        rows.append(share)
    return torch.stack(rows, dim=1)


def groups(joined: Tensor) -> list[list[int]]:
    """The connected components of several members of a symmetric (C, C) bool matrix, members in order."""
    partners, found, seen = joined.tolist(), [], set()
    for start in range(len(partners)):
        if start in seen:
            continue
        component, waiting = {start}, [start]
        while waiting:
            row = partners[waiting.pop()]
            new = {other for other, near in enumerate(row) if near and other not in component}
            component |= new
            waiting += sorted(new)
        seen |= component
        if len(component) > 1:
            found.append(sorted(component))
    return found
