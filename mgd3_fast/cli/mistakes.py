"""Which exceptions are the user's to mend, and how they are said in one line."""

from __future__ import annotations

from mgd3_fast.errors import UserError, printable, shortened

OUR_PACKAGES = ("mgd3_fast", "mgd3_engine", "mgd3_kernels")


def is_users_mistake(error: BaseException) -> bool:
    """Tell a mistake of the user from a bug.

    A `UserError` and an `OSError` (a missing file, a full disk) are the user's to mend, and so is a
    `ValueError` that one of our own checks raised; the same type out of a library's depths is a bug, and
    keeps its traceback.
    """
    if isinstance(error, (UserError, OSError)) or _is_out_of_memory(error):
        return True
    return isinstance(error, (ValueError, ImportError)) and _raised_by_us(error)


def one_line(error: BaseException) -> str:
    """Say an error in one line of at most 400 characters: the file first where the system names one."""
    return shortened(printable(_in_one_line(error)))


def _in_one_line(error: BaseException) -> str:
    if _is_out_of_memory(error):
        return "memory must hold a batch and does not: try a smaller --batch-size where the command has one"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _is_out_of_memory(error: BaseException) -> bool:
    """By name and words: torch, whose errors these are, need not be loaded to tell."""
    refused = isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or refused


def _raised_by_us(error: BaseException) -> bool:
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    module = str(trace.tb_frame.f_globals.get("__name__", ""))
    return module.split(".")[0] in OUR_PACKAGES
