"""Text that others wrote, made fit for a picture."""

from __future__ import annotations

from typing import Final

REPLACEMENT_CHARACTER: Final = "\ufffd"


def printable(text: str) -> str:
    """Without control and formatting characters, which XML forbids and a terminal would obey, and lone surrogates."""
    return "".join(
        character if character.isprintable() else " " if character.isspace() else REPLACEMENT_CHARACTER
        for character in text
    )


def xml_text(text: str) -> str:
    """As the content of an element or of a double-quoted attribute."""
    from xml.sax.saxutils import escape  # which imports an HTTP client

    return escape(printable(text), {'"': "&quot;"})


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
