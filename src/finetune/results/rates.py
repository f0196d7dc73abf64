"""What the search for a learning rate leaves: `lr.jsonl` for programs, `lr.svg` for people."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from finetune.learning.find_rate import Sweep, steepest, valley
from finetune.results.checkpoints import write_text

LINES, PICTURE = "lr.jsonl", "lr.svg"
WIDTH, HEIGHT, MARGIN = 720, 400, 56


def write(folder: Path, found: Sweep) -> list[str]:
    """Writes both files; gives the lines that say what was found."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = zip(found.rates, found.losses, found.smooth, strict=True)
    write_text(
        folder / LINES,
        "".join(json.dumps({"learning_rate": r, "loss": x, "smooth": s}) + "\n" for r, x, s in rows),
    )
    marks = {name: rate for name, rate in (("valley", valley(found)), ("steepest", steepest(found))) if rate}
    write_text(folder / PICTURE, draw(found, marks))
    lines = [f"sweep: {len(found.rates)} steps, train.learning_rate {found.rates[0]:.1e} to {found.rates[-1]:.1e}"]
    lines += [f"{name}: train.learning_rate={rate:.1e}" for name, rate in marks.items()]
    if not marks:
        lines.append("no suggestion: the loss never falls; does anything learn?")
    return [*lines, f"picture: {folder / PICTURE}"]


def draw(found: Sweep, marks: dict[str, float]) -> str:
    """The losses over the rates, with a line at each mark, as an SVG file."""
    floor, start = min(found.smooth), found.smooth[0]
    ceiling = max(start + (start - floor), floor * 1.05, 1e-12)  # what diverges would flatten all else
    low, high = math.floor(math.log10(found.rates[0])), math.ceil(math.log10(found.rates[-1]) + 1e-9)
    floor -= 0.1 * (ceiling - floor)

    def x(rate: float) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * (math.log10(rate) - low) / (high - low)

    def y(loss: float) -> float:
        return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (min(max(loss, floor), ceiling) - floor) / (ceiling - floor)

    def line(losses: Sequence[float], look: str) -> str:
        points = " ".join(f"{x(r):.1f},{y(v):.1f}" for r, v in zip(found.rates, losses, strict=True))
        return f'<polyline points="{points}" fill="none" {look}/>'

    bottom = HEIGHT - MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#444">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for power in range(low, high + 1):
        place = x(10.0**power)
        parts.append(f'<line x1="{place:.1f}" y1="{MARGIN}" x2="{place:.1f}" y2="{bottom}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{place:.1f}" y="{bottom + 18}" text-anchor="middle">1e{power}</text>')
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        loss = floor + share * (ceiling - floor)
        parts.append(f'<text x="{MARGIN - 8}" y="{y(loss) + 4:.1f}" text-anchor="end">{loss:.3g}</text>')
    parts.append(line(found.losses, 'stroke="#b9cbe0" stroke-width="1"'))
    parts.append(line(found.smooth, 'stroke="#1f5fa8" stroke-width="2"'))
    for row, (name, rate) in enumerate(marks.items()):
        place, top = x(rate), MARGIN - 22 + 14 * row
        parts.append(
            f'<line x1="{place:.1f}" y1="{top + 4}" x2="{place:.1f}" y2="{bottom}" stroke="#c0392b" '
            'stroke-dasharray="4 3"/>'
        )
        parts.append(f'<text x="{place + 4:.1f}" y="{top + 8}" fill="#c0392b">{name} {rate:.1e}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 14}" text-anchor="middle">train.learning_rate</text>')
    parts.append(f'<text x="{MARGIN - 8}" y="{MARGIN - 16}" text-anchor="end">loss</text></svg>')
    return "\n".join(parts) + "\n"
