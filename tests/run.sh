#!/usr/bin/env bash
# Install autoreg-rag with all that its tests need, and run them. Options go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${VENV:-.venv-tests}
"${PYTHON:-python3}" -m venv "$venv"
# The pip that Python brings may take half as long again.
"$venv/bin/python" -m pip install --quiet --constraint constraints.txt --upgrade pip
"$venv/bin/python" -m pip install --quiet --no-compile --constraint constraints.txt \
    --editable '.[test]'
# pip would compile on one core, and what packages test themselves by. Some hold templates that
# are no Python.
"$venv/bin/python" -m compileall -qq -j 0 -x '/tests?/' "$venv/lib" || true
# Side by side, each with one thread: many tests wait for a process or load a model.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$venv/bin/python" -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal "$@"
