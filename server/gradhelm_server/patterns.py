"""Patterns of parameter names, such as ``blocks.*.attn.*``: fnmatch, in time that is bounded."""

from __future__ import annotations


def matching(pattern: str, name: str) -> bool:
    """Whether ``name`` is matched by ``pattern`` (``*`` any characters, ``?`` one; case counts).

    Written out instead of ``fnmatch`` because patterns come from strangers: fnmatch becomes a
    regular expression that some patterns drive into exponential time.
    """
    at = place = 0
    star, resume = -1, 0
    while at < len(name):
        if place < len(pattern) and pattern[place] == "*":
            star, resume = place, at
            place += 1
        elif place < len(pattern) and pattern[place] in ("?", name[at]):
            place += 1
            at += 1
        elif star >= 0:
            resume += 1
            place, at = star + 1, resume
        else:
            return False
    return all(character == "*" for character in pattern[place:])
