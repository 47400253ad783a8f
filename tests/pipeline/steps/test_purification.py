"""Which classes a window shows, by loops."""

import torch

from pipeline.steps.purification import groups, overlaps, redundancy


def test_scores_and_overlaps_by_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two = torch.rand(2, 3, 4, 5, generator=generator), torch.rand(2, 3, 4, 5, generator=generator)
    two[1, 2] = 0
    kept, shares = redundancy(one, two), overlaps(two)
    for window in range(2):
        for a in range(3):
            p, r = one[window, a].flatten().tolist(), two[window, a].flatten().tolist()
            wanted = sum(x * y for x, y in zip(p, r)) / (sum(p) + sum(r) + 1e-8)
            assert abs(float(kept[window, a]) - wanted) < 1e-6
            for b in range(3):
                other = two[window, b].flatten().tolist()
                both, either = sum(map(min, r, other)), sum(map(max, r, other))
                assert abs(float(shares[window, a, b]) - (both / either if either else 0)) < 1e-6


def test_groups_are_connected_components() -> None:
    joined = torch.eye(6, dtype=torch.bool)
    for a, b in ((0, 3), (3, 5), (1, 2)):
        joined[a, b] = joined[b, a] = True
    assert groups(joined) == [[0, 3, 5], [1, 2]] and groups(torch.eye(3, dtype=torch.bool)) == []
