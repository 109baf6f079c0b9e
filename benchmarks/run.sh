#!/bin/sh
# Time this package against its peers, Inseq 0.7.1 and captum 0.9, which get an environment of their own. `make bench` calls
# this from the repository root; arguments go on to bench.py (`--help` lists them).
set -eu
cd "$(dirname "$0")/.."

peer=.venv-peer
if [ ! -e "$peer/.ready" ]; then
    "${PYTHON:-python3}" -m venv "$peer"
    "$peer/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
        'inseq==0.7.1' 'captum==0.9.0' scikit-learn setuptools
    "$peer/bin/python" -c 'import inseq'
    touch "$peer/.ready"
fi
exec "${OURS:-.venv/bin/python}" benchmarks/bench.py --ours "${OURS:-.venv/bin/python}" "$@"
