"""Make the pictures of the documentation: an attribution of the bundled translation model, in a browser and as a figure.

.venv/bin/python docs/images/make.py
"""

import subprocess
import tempfile
from pathlib import Path

import inseq

HERE = Path(__file__).parent
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")


def shoot(page: Path, picture: Path, width: int, height: int) -> None:
    with tempfile.TemporaryDirectory() as profile:
        size = (f"--window-size={width},{height}", "--force-device-scale-factor=2", "--hide-scrollbars")
        where = (f"--user-data-dir={profile}", f"--screenshot={picture}", page.as_uri())
        subprocess.run(["chromium", *FLAGS, *size, *where], check=True, capture_output=True)


def main() -> None:
    out = inseq.load_model("demo/zh-en", "saliency").attribute("我喜歡機器學習和人工智慧。", step_scores=["probability"])
    out.save(HERE / "zh-en-saliency.svg", overwrite=True)
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "page.html"
        out.save_html(page)
        shoot(page, HERE / "zh-en-saliency.png", 900, 560)


if __name__ == "__main__":
    main()
