"""Split MyST Markdown into plain text, code fences and directives."""

from __future__ import annotations

import re
from dataclasses import dataclass

_OPEN = re.compile(r"^(?P<fence>`{3,}|:{3,})\{(?P<name>[\w:-]+)\}[ \t]*(?P<argument>.*)$")
_LITERAL = re.compile(r"^(`{3,}|~{3,})(?!\{)")


class PageError(ValueError):
    """A page uses something that the notebooks cannot show, or refers to something absent."""


@dataclass
class Directive:
    """A fenced MyST directive."""

    name: str
    argument: str
    options: dict[str, str]
    body: list[str]


def _directive(match: re.Match, lines: list[str], start: int) -> tuple[Directive, int]:
    """Read the directive that opens on line `start`; return it and the first line after it."""
    fence = match["fence"]
    closing = re.compile(rf"^{fence[0]}{{{len(fence)},}}\s*$")
    end = start + 1
    while end < len(lines) and not closing.match(lines[end]):
        end += 1
    if end == len(lines):
        raise PageError(f"directive {lines[start]!r} is never closed")
    body, options = lines[start + 1 : end], {}
    while body and (option := re.match(r"^:([\w-]+):\s*(.*)$", body[0])):
        options[option[1]] = option[2].strip()
        body = body[1:]
    return Directive(match["name"], match["argument"].strip(), options, body), end + 1


def split_blocks(text: str) -> list[str | Directive]:
    """Split Markdown into plain text, code fences (as text) and directives, in order.

    Parameters
    ----------
    text : str
        MyST Markdown.
    """
    lines, blocks, plain, at = text.split("\n"), [], [], 0

    def flush():
        if plain:
            blocks.append("\n".join(plain))
            plain.clear()

    while at < len(lines):
        if literal := _LITERAL.match(lines[at]):
            flush()
            end = at + 1
            while end < len(lines) and lines[end].strip() != literal[1]:
                end += 1
            blocks.append(Directive("literal", "", {}, lines[at : end + 1]))
            at = end + 1
        elif match := _OPEN.match(lines[at]):
            flush()
            directive, at = _directive(match, lines, at)
            blocks.append(directive)
        else:
            plain.append(lines[at])
            at += 1
    flush()
    return blocks
