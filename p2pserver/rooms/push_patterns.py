"""Glob patterns of push rules: `*` for any sequence of characters, `?` for one, whatever the case.

Users write them and every message is held against them, so matching is linear in pattern and text: no backtracking.
Source: Matrix appendices, "Glob-style matching"; client-server API, "Conditions".
"""

from __future__ import annotations

import re
from collections.abc import Callable

PATTERN_CHARACTERS_MAX = 1_000

_WORD = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")

Matcher = Callable[[str], bool]


def whole_text(pattern: str) -> Matcher:
    """Whether a text is spelled by the pattern from its first character to its last."""
    if len(pattern) > PATTERN_CHARACTERS_MAX:
        return _never
    folded = pattern.lower()
    if "*" not in folded and "?" not in folded:
        return lambda text: text.lower() == folded
    parts = [_Part(part) for part in folded.split("*")]
    return lambda text: _spells(parts, text.lower())


def words(pattern: str) -> Matcher:
    """Whether the pattern spells a part of a text that begins and ends at the edge of a word.

    An edge is an end of the text or what lies beside a character other than `A-Z a-z 0-9 _`. No pattern spells nothing.
    """
    if not 0 < len(pattern) <= PATTERN_CHARACTERS_MAX:
        return _never
    parts = [_Part(part) for part in pattern.lower().split("*")]
    return lambda text: _spells_words(parts, text.lower())


def literal_words(words: str) -> Matcher:
    """`words`, for a text in which `*` and `?` stand for themselves."""
    part = _Part(words.lower(), literal=True)
    return lambda text: _find_at_edges(part, text.lower(), 0, at_start=True, at_end=True) >= 0


def _never(text: str) -> bool:
    return False


class _Part:
    """What stands between two `*`: characters, and `?` for any of them."""

    __slots__ = ("_regex", "length", "text")

    def __init__(self, text: str, *, literal: bool = False) -> None:
        self.text = text
        self.length = len(text)
        self._regex = None
        if "?" in text and not literal:
            self._regex = re.compile("".join("." if each == "?" else re.escape(each) for each in text), re.DOTALL)

    def find(self, text: str, start: int, end: int) -> int:
        """The first place at `start` or later at which it stands and ends by `end`; -1 for none."""
        if self._regex is None:
            return text.find(self.text, start, end)
        found = self._regex.search(text, start, end)
        return -1 if found is None else found.start()

    def stands_at(self, text: str, start: int) -> bool:
        if self._regex is None:
            return text.startswith(self.text, start)
        return self._regex.match(text, start) is not None


def _spells(parts: list[_Part], text: str) -> bool:
    first, *rest = parts
    if not rest:
        return len(text) == first.length and first.stands_at(text, 0)
    *middle, last = rest
    end = len(text) - last.length
    if first.length > end or not first.stands_at(text, 0) or not last.stands_at(text, end):
        return False
    at = first.length
    for part in middle:
        at = part.find(text, at, end)
        if at < 0:
            return False
        at += part.length
    return True


def _spells_words(parts: list[_Part], text: str) -> bool:
    first, *rest = parts
    at = _find_at_edges(first, text, 0, at_start=True, at_end=not rest)
    if at < 0 or not rest:
        return at >= 0
    at += first.length
    *middle, last = rest
    for part in middle:
        at = part.find(text, at, len(text))
        if at < 0:
            return False
        at += part.length
    if last.length == 0:
        return True  # the star reaches to the end of the text
    return _find_at_edges(last, text, at, at_start=False, at_end=True) >= 0


def _find_at_edges(part: _Part, text: str, start: int, *, at_start: bool, at_end: bool) -> int:
    if part.length == 0:
        return start
    at = part.find(text, start, len(text))
    while at >= 0:
        end = at + part.length
        begins = not at_start or at == 0 or text[at - 1] not in _WORD
        if begins and (not at_end or end == len(text) or text[end] not in _WORD):
            return at
        at = part.find(text, at + 1, len(text))
    return -1
