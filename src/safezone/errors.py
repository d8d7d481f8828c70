"""The one exception that a person's input can cause: one sentence, exit status 2."""


class UserError(Exception):
    """Wrong input, told in one sentence that names the file or option and the mend.

    The command line prints the sentence and exits with status 2; nothing has been written.
    """
