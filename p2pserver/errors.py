"""Errors that a client or a peer is told about.

Each class carries its Matrix error code and HTTP status; `client_api` turns it into a JSON body and the mesh door into
an error response. What is wrong with a peer's event is not an exception but a `Verdict`.

    MatrixError
    ├── BadJson, NotJson, MissingParam, InvalidParam, TooLarge, ProfileTooLarge, KeyTooLarge
    ├── Forbidden, InviteBlocked, NotFound, Unrecognized, LimitExceeded
    ├── MissingToken, UnknownToken, UnknownDevice, GuestAccessForbidden
    ├── UserDeactivated, UserLocked, UserSuspended
    ├── UserInUse, InvalidUsername, Exclusive, RoomInUse, WeakPassword
    ├── IncompatibleRoomVersion, UnsupportedRoomVersion, BadState, UnableToAuthoriseJoin, UnableToGrantJoin
    ├── CannotOverwriteMedia, NotYetUploaded, RemoteTooLarge, NoSpaceLeft
    └── PeerUnreachable                             a server that cannot be asked now
"""

from __future__ import annotations

from enum import Enum
from typing import Any, ClassVar


class Verdict(Enum):
    """What an event earned. Source: server-server API, "Checks performed on receipt of a PDU"."""

    ACCEPTED = "accepted"
    SOFT_FAILED = "soft_failed"
    REJECTED = "rejected"
    DROPPED = "dropped"


class MatrixError(Exception):
    """A request cannot be fulfilled; `errcode` and `http_status` say why in the field's own terms."""

    errcode: ClassVar[str] = "M_UNKNOWN"
    http_status: ClassVar[int] = 400

    def __init__(self, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.message = message
        self.extra = extra

    def body(self) -> dict[str, Any]:
        """The JSON object a client is sent: `errcode`, `error`, and the fields that belong to this code."""
        return {"errcode": self.errcode, "error": self.message, **self.extra}


class NotJson(MatrixError):
    errcode = "M_NOT_JSON"


class BadJson(MatrixError):
    errcode = "M_BAD_JSON"


class MissingParam(MatrixError):
    errcode = "M_MISSING_PARAM"


class InvalidParam(MatrixError):
    errcode = "M_INVALID_PARAM"


class TooLarge(MatrixError):
    errcode, http_status = "M_TOO_LARGE", 413


class ProfileTooLarge(MatrixError):
    errcode = "M_PROFILE_TOO_LARGE"


class KeyTooLarge(MatrixError):
    errcode = "M_KEY_TOO_LARGE"


class UnknownDevice(MatrixError):
    errcode = "M_UNKNOWN_DEVICE"


class Forbidden(MatrixError):
    errcode, http_status = "M_FORBIDDEN", 403


class InviteBlocked(MatrixError):
    errcode, http_status = "M_INVITE_BLOCKED", 403


class NotFound(MatrixError):
    errcode, http_status = "M_NOT_FOUND", 404


class Unrecognized(MatrixError):
    errcode, http_status = "M_UNRECOGNIZED", 404


class MethodNotAllowed(MatrixError):
    errcode, http_status = "M_UNRECOGNIZED", 405


class MissingToken(MatrixError):
    errcode, http_status = "M_MISSING_TOKEN", 401


class UnknownToken(MatrixError):
    errcode, http_status = "M_UNKNOWN_TOKEN", 401


class GuestAccessForbidden(MatrixError):
    errcode, http_status = "M_GUEST_ACCESS_FORBIDDEN", 403


class UserDeactivated(MatrixError):
    errcode, http_status = "M_USER_DEACTIVATED", 403


class UserLocked(MatrixError):
    """A soft logout: the client keeps its keys and its token, which holds again once the account is unlocked."""

    errcode, http_status = "M_USER_LOCKED", 401

    def __init__(self, message: str) -> None:
        super().__init__(message, soft_logout=True)


class UserSuspended(MatrixError):
    errcode, http_status = "M_USER_SUSPENDED", 403


class Exclusive(MatrixError):
    errcode = "M_EXCLUSIVE"


class LimitExceeded(MatrixError):
    """Sent with a `Retry-After` header as well; `retry_after_ms` is what older clients read."""

    errcode, http_status = "M_LIMIT_EXCEEDED", 429

    def __init__(self, message: str, *, retry_after_ms: int) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)
        self.retry_after_ms = retry_after_ms


class UserInUse(MatrixError):
    errcode = "M_USER_IN_USE"


class InvalidUsername(MatrixError):
    errcode = "M_INVALID_USERNAME"


class WeakPassword(MatrixError):
    errcode = "M_WEAK_PASSWORD"


class DuplicateAnnotation(MatrixError):
    errcode = "M_DUPLICATE_ANNOTATION"


class RoomInUse(MatrixError):
    errcode = "M_ROOM_IN_USE"


class AliasInUse(MatrixError):
    errcode, http_status = "M_UNKNOWN", 409


class BadAlias(MatrixError):
    errcode = "M_BAD_ALIAS"


class BadState(MatrixError):
    errcode = "M_BAD_STATE"


class UnableToAuthoriseJoin(MatrixError):
    """This server cannot tell whether the user is in a room that opens the restricted one; another may."""

    errcode = "M_UNABLE_TO_AUTHORISE_JOIN"


class UnableToGrantJoin(MatrixError):
    """No user of this server may let anybody into the restricted room; another server's may."""

    errcode = "M_UNABLE_TO_GRANT_JOIN"


class UnsupportedRoomVersion(MatrixError):
    errcode = "M_UNSUPPORTED_ROOM_VERSION"


class IncompatibleRoomVersion(MatrixError):
    errcode = "M_INCOMPATIBLE_ROOM_VERSION"


class InvalidRoomState(MatrixError):
    errcode = "M_INVALID_ROOM_STATE"


class CannotOverwriteMedia(MatrixError):
    errcode, http_status = "M_CANNOT_OVERWRITE_MEDIA", 409


class NotYetUploaded(MatrixError):
    """Media whose octets are not here in time: they may come later."""

    errcode, http_status = "M_NOT_YET_UPLOADED", 504


class RemoteTooLarge(MatrixError):
    """Media of another server that is larger than what this one takes."""

    errcode, http_status = "M_TOO_LARGE", 502


class NoSpaceLeft(MatrixError):
    errcode, http_status = "M_UNKNOWN", 507


class PeerUnreachable(MatrixError):
    """The other server cannot be asked at the moment; nothing waits for it."""

    errcode, http_status = "M_UNREACHABLE", 502
