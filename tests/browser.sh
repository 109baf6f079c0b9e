#!/bin/sh
# Makes ready what tests/test_browser.py needs: a headless Chromium and a font with Chinese characters.
set -eu

has_font() { command -v fc-list >/dev/null 2>&1 && [ -n "$(fc-list :lang=zh-cn file | head -n 1)" ]; }

if command -v chromium >/dev/null 2>&1 && has_font; then
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
    echo "browser.sh: install chromium and a Chinese font by hand; the browser tests are skipped without chromium." >&2
    exit 0
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get -o Acquire::Retries=3 update && apt-get -o Acquire::Retries=3 install -y --no-install-recommends \
    chromium fontconfig fonts-liberation fonts-wqy-microhei; } >"$log" 2>&1; then
    tail -n 3 "$log" >&2
    echo "browser.sh: apt-get could not install chromium; the browser tests are skipped without it." >&2
fi
