"""The outcome of one image."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """The status of one image: "made", "kept" (existed already) or "failed" with a reason.

    note  a remark on an image that was made, such as "on the CPU, out of GPU memory"
    """

    id: str
    status: str
    reason: str = ""
    note: str = ""
