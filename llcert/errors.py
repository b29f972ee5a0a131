"""Every error llcert raises on purpose; the command line prints each as one line.

Its exit code is 2 for what a user can act on, and 3 for a NumericalError, which is a bug.
"""


class LlcertError(Exception):
    """Something a user can act on. The message is one line: what is wrong, where, and what would help."""


class InvalidInput(LlcertError):
    """An argument, a data file or a setting that cannot be used as given."""


class UnsupportedModel(LlcertError):
    """A model that llcert cannot represent exactly, or that disagrees with its own runtime."""


class NumericalError(LlcertError):
    """A computed bound contradicts an observation: a bug, never a verdict."""


class Stopped(Exception):
    """Another process of a group has stopped before this one, and told why. code: the exit code of all."""

    def __init__(self, code: int) -> None:
        super().__init__(f"stopped with {code}")
        self.code = code
