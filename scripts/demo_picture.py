"""Draws docs/demo.png from the demo's page, in headless Chromium.

make demo
PYTHONPATH=tests .venv/bin/python scripts/demo_picture.py demo-output/report.html
"""

import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from chromium import Page

PICTURE = Path(__file__).parents[1] / "docs" / "demo.png"


def main(report: Path) -> None:
    """The top of the page and the pictures of its first concept, in few colours."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.png"
        with Page(Path(folder) / "profile") as page:
            page.screen(1000, 1630)
            page.open(report)
            time.sleep(1)  # pictures are decoded after the page is there
            page.picture(raw)
        few = Image.open(raw).convert("RGB").quantize(128, dither=Image.Dither.NONE)
        few.save(PICTURE, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
