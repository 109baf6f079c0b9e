#!/bin/sh
# Time this package against the published Inseq 0.7.1, which gets an environment of its own. `make bench` calls this from
# the repository root; arguments go on to against_inseq.py (`--help` lists them).
set -eu
cd "$(dirname "$0")/.."

peer=.venv-peer
if [ ! -e "$peer/.ready" ]; then
    "${PYTHON:-python3}" -m venv "$peer"
    "$peer/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
        'inseq==0.7.1' setuptools
    "$peer/bin/python" -c 'import inseq'
    touch "$peer/.ready"
fi
exec .venv/bin/python benchmarks/against_inseq.py "$@"
