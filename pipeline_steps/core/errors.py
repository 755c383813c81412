"""The one exception for everything that a user can mend."""


class PipelineError(Exception):
    """A fact, its place and the remedy, in words for the user; the step wrapper prints it without a traceback."""

    def __str__(self) -> str:
        """The words; torch puts a data-loading process's traceback before them, which is left out."""
        text = super().__str__()
        in_worker = text.startswith("Caught ") and "DataLoader worker process" in text.partition("\n")[0]
        return text.rpartition("PipelineError: ")[2].strip() if in_worker else text


class FullDiskError(PipelineError):
    """There is no room to write."""
