"""One small exception tree.

Every error that a user can cause derives from :class:`RefquantError` and says in one line what was found, where, and what is allowed.
Each class carries the exit code that the command line gives it. The classes also derive from the built-in exception that a library
user would expect, so ``except ValueError`` keeps working.
"""


class RefquantError(Exception):
    """Base of every error that refquant raises on purpose."""

    exit_code = 1


class UsageError(RefquantError, ValueError):
    """An argument, option or name that is not allowed (exit code 2)."""

    exit_code = 2


class InputError(RefquantError, ValueError):
    """Data from outside that cannot be used: a damaged file, a wrong shape, a NaN weight (exit code 3)."""

    exit_code = 3


class NumericalError(RefquantError, ArithmeticError):
    """Arithmetic that cannot go on: an indefinite Hessian, a scale that overflows (exit code 4)."""

    exit_code = 4


class NotPositiveDefiniteError(NumericalError):
    """A Cholesky factorization met a pivot that is not positive.

    Parameters
    ----------
    message : str
        The one line for the user.
    pivot : int
        Zero-based index of the first pivot that is not positive, in the order in which the factorization met it.
    """

    def __init__(self, message: str, pivot: int) -> None:
        super().__init__(message)
        self.pivot = pivot

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        return type(self), (str(self), self.pivot)  # it may be raised in another process than it is told in
