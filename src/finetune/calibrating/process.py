"""A contender as a process of its own, for TensorFlow reads some settings only while it is loaded."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from finetune.calibrating.contest import Failed, Ready, Times
from finetune.calibrating.setting import Setting
from finetune.calibrating.work import Work

SLOWEST = 600.0  # seconds: after that something is wrong


class Process:
    """A setting at work on a recipe, in `finetune.calibrating.trial`.

    Raises:
      Failed: it does not get ready.
    """

    def __init__(self, setting: Setting, words: Sequence[str], seconds: float = SLOWEST):
        self._seconds = seconds
        self._heard = b""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        command = [sys.executable, "-m", "finetune.calibrating.trial", *words]
        command += [f"train.xla={str(setting.xla).lower()}"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, **setting.environment()},
        )
        try:
            found = self._line()
            self.ready = Ready(found["onednn"], found["gpus"], Work(**found["work"]), Times(**found["times"]))
        except BaseException:
            self.close()
            raise

    def turn(self) -> Times:
        """One more run.

        Raises:
          Failed: it has ended.
        """
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
        except OSError:
            raise Failed(self._last_words()) from None
        return Times(**self._line())

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def _line(self) -> Any:
        """The next line that it says."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + self._seconds
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._heard:
                if not waiting.select(max(0.0, deadline - time.monotonic())):
                    raise Failed(f"no answer in {self._seconds:g} seconds")
                more = os.read(self._process.stdout.fileno(), 65536)
                if not more:
                    raise Failed(self._last_words())
                self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return json.loads(line)

    def _last_words(self) -> str:
        status = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return f"exit status {status}" + (f": {lines[-1][:200]}" if lines else "")
