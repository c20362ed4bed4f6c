"""The one error of this layer; its message says what is wrong, in which file, and what to do next."""

__all__ = ["ModelError"]


class ModelError(Exception):
    """A data set, checkpoint or artefact that cannot be used as it is."""
