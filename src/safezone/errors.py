"""The one exception that a person's input can cause: one sentence, exit status 2."""


class UserError(Exception):
    """Wrong input: one sentence that names the file or option and what to do.

    The command line prints the sentence and exits with status 2; nothing has been written.
    """


class WorkspaceError(UserError):
    """The place where results are written is at fault, not one run: nothing can go on."""
