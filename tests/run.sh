#!/usr/bin/env bash
# Install autoreg-rag with all that its tests need, and run them. Options go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${VENV:-.venv-tests}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --constraint constraints.txt --editable '.[test]'
"$venv/bin/python" -m pytest "$@"
