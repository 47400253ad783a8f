"""The two kinds of trouble a user can cause, and how each ends. Imports nothing of the project."""

EXIT_OK = 0
EXIT_USAGE = 2  # the command cannot run as asked
EXIT_INCOMPLETE = 3  # the command ran, but some images failed; they are listed
EXIT_INTERRUPTED = 130  # Ctrl-C


class UserError(Exception):
    """Something the user can mend: one line that names the file, what was expected and what to do.

    Raised while setting up, it ends the command with exit code 2. Raised while one image is at work,
    that image is counted and listed as failed, and the command goes on and ends with exit code 3.
    """
