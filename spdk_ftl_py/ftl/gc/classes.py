"""The classes of bands that are written side by side, and which of them ask for a band. A class is a stream of the
shim."""

from __future__ import annotations

from ... import _shim


class Classes:
    """Those of hosts come first. If both sides share a band, there is one class for both."""

    def __init__(self, *, shared: bool) -> None:
        self.shared = shared
        self.user: tuple[int, ...] = (_shim.STREAM_USER,)
        self.reloc: tuple[int, ...] = self.user if shared else (_shim.STREAM_RELOC,)
        self.all: tuple[int, ...] = self.user if shared else (*self.user, *self.reloc)
        self.one_each = True
        """Each side has one class."""
        self.wanting: set[int] = set()
        """They have asked for a band, and have none in the queue."""

    def number(self, classes: int, user_classes: int) -> bool:
        """There are so many from now on. False: so many there were; otherwise those that need a band ask again."""
        user, reloc = tuple(range(user_classes)), tuple(range(user_classes, classes))
        if (user, reloc) == (self.user, self.reloc):
            return False
        self.user, self.reloc = user, reloc
        self.all = (*user, *reloc)
        self.one_each = len(user) == len(reloc) == 1
        self.wanting.clear()
        return True

    def asks(self, stream: int) -> None:
        # A class may have asked that no longer exists.
        if self.shared or stream in self.all:
            self.wanting.add(_shim.STREAM_USER if self.shared else stream)
