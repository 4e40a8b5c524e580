#!/usr/bin/env bash
# Gradescope runs this once, when the autograder is built. Choose a base image with Python 3.11 or
# newer. The CPU build of PyTorch is enough.
set -euo pipefail
SOURCE="${AUTOGRADER:-/autograder}/source"
apt-get update
apt-get install -y python3 python3-venv
python3 -m venv "$SOURCE/venv"
"$SOURCE/venv/bin/python" -m pip install --no-cache-dir -r "$SOURCE/requirements.txt"
