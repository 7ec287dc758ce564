"""The states of a pipe and every way from one to another, in one table.

An input that the table does not name in a state changes nothing there.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from p2pserver.link.handshake import Message


class PipeState(Enum):
    """Named for what the pipe waits for."""

    AWAIT_FIRST = "await first"
    """Responder: nothing came yet."""
    AWAIT_SECOND = "await second"
    """Initiator: message 1 is out."""
    AWAIT_THIRD = "await third"
    """Responder: message 2 is out."""
    AWAIT_CONFIRMATION = "await confirmation"
    """Responder: message 2 of IK is out; message 1 may have been an old one."""
    UNCONFIRMED = "unconfirmed"
    """Initiator: the responder is known and message 3 is out; data may flow."""
    ESTABLISHED = "established"
    """Both are known to both."""
    DEAD = "dead"


class PipeInput(Enum):
    """What happens to a pipe."""

    FIRST = "message 1"
    """Of XX, or of IK and not readable."""
    SECOND = "message 2"
    """Of XX or of XXfallback."""
    THIRD = "message 3"
    KNOWN_FIRST = "IK message 1"
    KNOWN_SECOND = "IK message 2"
    SECURED = "authentic datagram"
    REFUSED = "key refused"
    GOODBYE = "goodbye"
    SILENCE = "silence"
    FAULT = "protocol error"
    CLOSE = "closed here"


_DEATHS = (PipeInput.SILENCE, PipeInput.FAULT, PipeInput.CLOSE)

INPUT_OF: Final = {
    Message.SECOND: PipeInput.SECOND,
    Message.FALLBACK_SECOND: PipeInput.SECOND,
    Message.KNOWN_SECOND: PipeInput.KNOWN_SECOND,
    Message.THIRD: PipeInput.THIRD,
}
"""What a message of the other side is that proves it to be there."""
TRANSITIONS: dict[tuple[PipeState, PipeInput], PipeState] = {
    (PipeState.AWAIT_FIRST, PipeInput.FIRST): PipeState.AWAIT_THIRD,
    (PipeState.AWAIT_FIRST, PipeInput.KNOWN_FIRST): PipeState.AWAIT_CONFIRMATION,
    (PipeState.AWAIT_THIRD, PipeInput.FIRST): PipeState.AWAIT_THIRD,
    (PipeState.AWAIT_THIRD, PipeInput.KNOWN_FIRST): PipeState.AWAIT_CONFIRMATION,
    (PipeState.AWAIT_THIRD, PipeInput.THIRD): PipeState.ESTABLISHED,
    (PipeState.AWAIT_THIRD, PipeInput.REFUSED): PipeState.DEAD,
    (PipeState.AWAIT_CONFIRMATION, PipeInput.FIRST): PipeState.AWAIT_THIRD,
    (PipeState.AWAIT_CONFIRMATION, PipeInput.KNOWN_FIRST): PipeState.AWAIT_CONFIRMATION,
    (PipeState.AWAIT_CONFIRMATION, PipeInput.SECURED): PipeState.ESTABLISHED,
    (PipeState.AWAIT_CONFIRMATION, PipeInput.REFUSED): PipeState.DEAD,
    (PipeState.AWAIT_SECOND, PipeInput.KNOWN_SECOND): PipeState.ESTABLISHED,
    (PipeState.AWAIT_SECOND, PipeInput.SECOND): PipeState.UNCONFIRMED,
    (PipeState.AWAIT_SECOND, PipeInput.REFUSED): PipeState.DEAD,
    (PipeState.UNCONFIRMED, PipeInput.SECURED): PipeState.ESTABLISHED,
    (PipeState.UNCONFIRMED, PipeInput.GOODBYE): PipeState.DEAD,
    (PipeState.ESTABLISHED, PipeInput.SECURED): PipeState.ESTABLISHED,
    (PipeState.ESTABLISHED, PipeInput.GOODBYE): PipeState.DEAD,
    **{(state, death): PipeState.DEAD for state in PipeState if state is not PipeState.DEAD for death in _DEATHS},
}
