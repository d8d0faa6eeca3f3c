"""The mistakes a user can make, one class each.

Every message says what was wrong and what to do about it, in one line: the command line prints
the message as it is, and the app shows it in a box. A bug in the workbench is never one of these.
"""


class WorkbenchError(Exception):
    """Base of every error that a user can meet and mend; caught once, at the outermost layer."""


class ConfigError(WorkbenchError):
    """A configuration has an unknown key, a missing key, or a value of the wrong type or range."""


class CheckpointError(WorkbenchError):
    """A checkpoint is missing, truncated, holds NaN, or belongs to another backbone."""


class BackboneError(WorkbenchError):
    """A backbone is unknown, cannot be loaded, or is not of a supported architecture."""


class TokenError(WorkbenchError):
    """A text cannot be tokenised: it is empty, or has words outside the vocabulary."""


class ContextLengthError(WorkbenchError):
    """A prompt, its slots and the requested new tokens do not fit into the backbone's context."""


class HookError(WorkbenchError):
    """A capture or an overwrite did not fire, or fired with another shape than promised."""


class MemoryLimitError(WorkbenchError):
    """A device has no room for a model, or for a pass of this size."""


class NonFiniteError(WorkbenchError):
    """A NaN or an infinity stands where a measured number is needed."""


class RunError(WorkbenchError):
    """A run folder is in use, incomplete, of another configuration, or cannot be written."""


class FolderInUseError(RunError):
    """Another live process owns the run folder."""


class DataError(WorkbenchError):
    """A data file or data set cannot be read, lacks a column, or breaks its own schema."""


class ExportError(WorkbenchError):
    """A run cannot be exported: unfinished, of a kind without tables, or the target is taken."""


class WorkbenchWarning(UserWarning):
    """What goes on and should be known; the command line prints it as one line, ``note: ...``."""


def one_line(error: Exception) -> str:
    """What an error of another library says, without its line breaks."""
    return " ".join(str(error).split())
