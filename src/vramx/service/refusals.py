"""What the service refuses, each with its status; told as JSON."""

from __future__ import annotations

from typing import Any

from vramx.errors import Error


class RefusedError(Error):
    """A request that is not done.

    Attributes
    ----------
    status : int
        Of HTTP.
    retry_after : int or None
        Seconds after which to try again.
    headers : dict of str to str
        Further ones.
    """

    status = 400

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return told(type(self).__name__, str(self))


def told(kind: str, message: str) -> dict[str, Any]:
    """Return an error as every answer has it."""
    return {"error": kind, "message": message}


class BadRequestError(RefusedError):
    """It is no request that HTTP or this service knows."""


class UnauthorizedError(RefusedError):
    """There is no token, or another."""

    status = 401

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer: browsers ask for the token where they see the second."""
        return {"WWW-Authenticate": 'Bearer, Basic realm="vramx", charset="UTF-8"'}


class ForbiddenError(RefusedError):
    """It would lead out of what is allowed."""

    status = 403


class NotFoundError(RefusedError):
    """There is no such file, job or model."""

    status = 404


class ConflictError(RefusedError):
    """It does not go with the state that a file or a job has."""

    status = 409


class TooLargeError(RefusedError):
    """It has more bytes or pixels than are taken."""

    status = 413


class UnsupportedError(RefusedError):
    """It is of a kind that is not taken."""

    status = 415


class NotAllowedError(RefusedError):
    """A value is not allowed."""

    status = 422


class TooManyError(RefusedError):
    """An address asks too often."""

    status = 429


class BusyError(RefusedError):
    """There is no room now."""

    status = 503
