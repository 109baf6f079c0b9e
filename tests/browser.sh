#!/bin/sh
# Install what tests of the page need, a headless Chromium and a font with Chinese characters, or fail with the reason.
set -eu

has_font() { command -v fc-list >/dev/null 2>&1 && [ -n "$(fc-list :lang=zh-cn file | head -n 1)" ]; }

if command -v chromium >/dev/null 2>&1 && has_font; then
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
    echo "browser.sh: tests of the page need chromium and a Chinese font, which only root with apt-get installs here;" \
        "install both and run this again." >&2
    exit 1
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get -o Acquire::Retries=3 update && apt-get -o Acquire::Retries=3 install -y --no-install-recommends \
    chromium fontconfig fonts-liberation fonts-wqy-microhei; } >"$log" 2>&1; then
    tail -n 3 "$log" >&2
    echo "browser.sh: apt-get could not install chromium and a Chinese font, which tests of the page need." >&2
    exit 1
fi
