"""Files that grow by lines, on disks that may be full for a while."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class Appending:
    """Adds text to the end of a file; what cannot be written now is written with what comes next.

    Raises:
      OSError: it cannot even be opened.
    """

    def __init__(self, path: Path):
        self._file = path.open("ab", buffering=0)
        self._left = b""

    def write(self, text: str) -> None:
        """Adds a text, as far as that can be done now."""
        self._left += text.encode(errors="backslashreplace")
        with suppress(OSError):
            while self._left:
                written = self._file.write(self._left)
                self._left = self._left[written or 0 :]

    def sync(self) -> None:
        """Tries once more, and makes what was written survive a loss of power, as far as the disk does it."""
        self.write("")
        with suppress(OSError):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Tries once more, and lets go of the file; a second time it does nothing."""
        if self._file.closed:
            return
        self.sync()
        with suppress(OSError):
            self._file.close()
