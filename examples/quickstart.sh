#!/usr/bin/env bash
# Install autoreg-rag, index Python's language reference and the project's own
# documents with the default model, and ask the index a question. Each step
# says how long it took. Everything stays below the folder of the project.
set -euo pipefail
cd "$(dirname "$0")/.."

step() {
    local name=$1 start=$SECONDS
    shift
    echo "--- $name"
    "$@"
    echo "--- $name: $((SECONDS - start)) s"
}

install() {
    "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -m pip install --quiet --constraint constraints.txt .
}

step install install
step corpus .venv/bin/python examples/python_reference.py corpus/python-reference
step fetch .venv/bin/python -m autoreg_rag.fetch
step index .venv/bin/python -m autoreg_rag.index corpus/python-reference docs README.md
step search .venv/bin/python -m autoreg_rag.search \
    "${1:-How can I run some code whether or not an exception was raised?}"
