"""What an error costs: one image, unless it ends the run."""

from pathlib import Path

from common.errors import StopRun, UserError, in_short
from common.outcome import Outcome
from common.package import missing_package


def failure(image_id: str, error: Exception, image: Path | None = None) -> Outcome:
    """The outcome of an image that failed, with the reason in one line.

    Raises a StopRun again, and UserError where a package of an extra is missing.

    image  the file to name in messages that do not name one themselves
    """
    if isinstance(error, StopRun):
        raise error
    if isinstance(error, ModuleNotFoundError) and (missing := missing_package(error)):
        raise missing from error
    if isinstance(error, UserError):
        return Outcome(image_id, "failed", " ".join(str(error).split()))
    reason = in_short(f"{type(error).__name__}: {error}")
    return Outcome(image_id, "failed", f"{image}: {reason}" if image else reason)
