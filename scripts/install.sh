#!/usr/bin/env bash
# Makes the virtual environment, or brings it up to date:  scripts/install.sh [FOLDER]
#
# Which torch: with an NVIDIA GPU (or away from Linux) the one that pip finds by itself; without one
# the CPU build, since the build that PyPI has for Linux brings gigabytes of CUDA libraries along.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.venv}
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "safezone needs Python 3.11 or newer, but $python is $("$python" --version 2>&1)." >&2
    echo "Name another one: make setup PYTHON=python3.11" >&2
    exit 1
fi
if [ ! -x "$folder/bin/python" ]; then
    echo "== virtual environment in $folder ($("$python" --version))"
    "$python" -m venv "$folder"
fi
pip() { "$folder/bin/python" -m pip --disable-pip-version-check "$@"; }

version=$(sed -n 's/^torch==//p' constraints.txt)

installed() {
    "$folder/bin/python" - "$version" <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, version
try:
    sys.exit(version("torch").partition("+")[0] != sys.argv[1])
except PackageNotFoundError:
    sys.exit(1)
PYTHON
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }

# Whether a folder that pip is configured to look into (find-links) already holds the wheel.
on_this_disk() { pip install -q --dry-run --no-deps --no-index "torch==$version" >/dev/null 2>&1; }

install_cpu_build() {
    pip install --no-deps --timeout 20 --retries 1 \
        --index-url https://download.pytorch.org/whl/cpu "torch==$version+cpu"
}

if installed; then
    echo "== torch $version is there"
elif [ "$(uname -s)" != Linux ] || has_gpu || on_this_disk; then
    echo "== torch $version"
    pip install -c constraints.txt "torch==$version"
else
    echo "== torch $version, CPU build"
    if ! install_cpu_build; then
        echo "PyTorch's own index did not give the CPU build; taking PyPI's, which is far larger." >&2
        pip install -c constraints.txt "torch==$version"
    fi
fi

echo "== safezone and what it needs"
pip install -c constraints.txt -e '.[dev]'
