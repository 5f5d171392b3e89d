"""What scans of one painted spine under one texture share, computed once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Kept:
    """Results of one tissue map on one grid under one texture, each by everything else that it depends on.

    Nobody may change what is returned. `keep` False: nothing is held, because no scan follows that could use it.
    """

    def __init__(self, *, keep: bool = True) -> None:
        self._keep = keep
        self._results: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the result of an equal key, made at the first call."""
        if not self._keep:
            return make()
        if key not in self._results:
            self._results[key] = make()
        result: T = self._results[key]
        return result
