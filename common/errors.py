"""How a command can end before its work is done, and the exit codes."""

EXIT_OK = 0
EXIT_USAGE = 2  # the command cannot run as asked
EXIT_INCOMPLETE = 3  # the command ran, but some images failed, which are listed, or it was stopped
EXIT_INTERRUPTED = 130  # Ctrl-C
EXIT_TERMINATED = 143  # SIGTERM


class UserError(Exception):
    """An error that the user can correct: one line that names the file, what was expected and what to do.

    Raised while setting up, it ends the command with exit code 2. Raised for one image, that image is listed as
    failed, and the command goes on and ends with exit code 3.
    """


class StopRun(Exception):
    """The run cannot go on, such as on a full disk: one line that says why and what to do; exit code 3.

    Not a UserError: it is never counted as the failure of one image.
    """


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which clusters end a job; handled like Ctrl-C, with another exit code."""


def in_short(value: object) -> str:
    """A value of a user's file for a message: one line of at most 80 printable characters."""
    text = " ".join(str(value).split())
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= 80 else f"{text[:77]}..."
