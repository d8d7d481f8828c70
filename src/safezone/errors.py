"""The one exception that a person's input can cause, and the one warning."""


class UserError(Exception):
    """Wrong input: one sentence that names the file or option and what to do.

    The command line prints the sentence and exits with status 2; nothing has been written.
    """


class WorkspaceError(UserError):
    """The place where results are written is at fault, not one run: nothing can go on."""


class Notice(UserWarning):
    """Something to know that stops nothing; the command line prints it once."""
