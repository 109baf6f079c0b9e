#!/bin/sh
# Runs the comparison with the published Inseq, which lives in an environment of its own: it has our import name.
# Arguments go to benchmarks/against_inseq.py.
set -eu
cd "$(dirname "$0")/.."

if [ ! -f .venv-peer/.ready ]; then
    python3 -m venv .venv-peer
    .venv-peer/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt inseq==0.7.1
    touch .venv-peer/.ready
fi
exec .venv/bin/python benchmarks/against_inseq.py "$@"
