"""Conformance: each promise of the engine, held against every golden."""

from __future__ import annotations

import sys
from pathlib import Path

# Tests are imported by path and have no package; what they share lies beside them.
sys.path.insert(0, str(Path(__file__).parent))
