"""The one exception for everything that a user can mend."""


class PipelineError(Exception):
    """A fact, its place and the remedy, in words for the user; the step wrapper prints it without a traceback."""


class FullDiskError(PipelineError):
    """There is no room to write."""
