"""How numbers of things are written: one case, two cases."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """Return `1 case`, `2 cases`, `0 cases`; nouns that end with s get `es`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def named(noun: str, names: Sequence[str]) -> str:
    """Return `fold 0` or `folds 0, 1`."""
    return f"{noun if len(names) == 1 else f'{noun}s'} {', '.join(names)}"
