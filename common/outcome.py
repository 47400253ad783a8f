"""What became of one image."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What became of one image: "made", "kept" (was there already) or "failed" with a reason.

    note  what people should know of an image that was made, such as "on the CPU, out of GPU memory"
    """

    id: str
    status: str
    reason: str = ""
    note: str = ""
