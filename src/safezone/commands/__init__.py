"""The commands of the command line: a class each, whose fields are the options (``command``)."""
