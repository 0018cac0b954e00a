"""Everything a user must be told: one base class, one exit code a kind, and a remedy in every message.

Raised anywhere, caught once in ``__main__``, which prints it without a traceback (``--traceback`` shows it).
"""

from __future__ import annotations


class VariantsError(Exception):
    """Something that the user can mend: `what` happened (naming the file), and the `remedy`, what to type or change next."""

    exit_code = 1

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


class UsageError(VariantsError):
    """The command line asks for something that is not there: an unknown variant, say."""

    exit_code = 2


class MatrixError(VariantsError):
    """A file in ``variants/*.toml`` cannot be read as a variant."""

    exit_code = 3


class SourceError(VariantsError):
    """Upstream's source cannot be fetched, checked or unpacked."""

    exit_code = 4


class ToolchainError(VariantsError):
    """No compiler, or one that cannot build this."""

    exit_code = 5


class CommandError(VariantsError):
    """A command failed; the message holds the command, its last lines and where its whole log is."""

    exit_code = 6


class OutOfMemoryError(CommandError):
    """A command failed, most probably since there was no memory left for it."""


class WheelError(VariantsError):
    """A wheel that is not ours, is damaged, or does not keep what it promises."""

    exit_code = 7


class BusyError(VariantsError):
    """Another build is using this checkout."""

    exit_code = 8


class DiskError(VariantsError):
    """No space left, or no right to write."""

    exit_code = 9


class LedgerError(VariantsError):
    """The ledger of published files cannot be read, or a file would change that was published."""

    exit_code = 10
