"""Makes the demo's pictures of several garments at once, for heads that learn several classes, or numbers.

    python scripts/make_outfits.py --data /usr/share/datasets/fashion-mnist --out src/finetune/demo/outfits.npz

Each picture lays one to three garments of Fashion-MNIST (MIT licence) over each other, the brightest pixel on top.
The file has `images`, float16 [n, 28, 28, 1] in 0..1; `garments`, which of them are in it, as `coat|dress`; and `ink`,
float32, the share of its pixels that are brighter than half. Two of the three, dress and coat, the demo's pair has
never seen. Written anew it comes out the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from make_demo import CLASSES, FILES, read

GARMENTS = ("coat", "dress", "sandal")
COUNT, SHIFT, SEED = 500, 3, 5


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the demo's pictures of several garments.")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="where the *-ubyte.gz files are")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    args = parser.parse_args()
    if missing := [name for name in FILES if not (args.data / name).is_file()]:
        parser.error(f"{args.data} lacks {', '.join(missing)}; apt-get install dataset-fashion-mnist brings them")
    draw = np.random.default_rng(SEED)
    images, labels = read(args.data, "t10k")
    places = {name: np.flatnonzero(labels == CLASSES.index(name)) for name in GARMENTS}
    pictures, names = np.zeros((COUNT, 28, 28, 1), np.uint8), []
    for picture in pictures:
        worn = sorted(draw.choice(GARMENTS, draw.integers(1, len(GARMENTS) + 1), replace=False))
        for name in worn:
            garment = images[draw.choice(places[name])]
            np.maximum(picture, np.roll(garment, draw.integers(-SHIFT, SHIFT + 1, 2), (0, 1)), out=picture)
        names.append("|".join(worn))
    ink = (pictures > 127).mean(axis=(1, 2, 3)).astype(np.float32)
    np.savez_compressed(args.out, images=(pictures / 255).astype(np.float16), garments=np.array(names), ink=ink)
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
