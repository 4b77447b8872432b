#!/usr/bin/env bash
# Make a virtual environment and install this checkout into it:  scripts/venv.sh DIR REQUIREMENT [PYTHON_OPTIONS…]
# Works without root, and without Debian's python3-venv where pip or uv is there instead.
set -euo pipefail

dir=$1
requirement=$2

say() { printf 'penstock: %s\n' "$*" >&2; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
    say "expected Python 3.11 or newer, found $(python3 --version 2>&1 || true); install one, or name it: make PYTHON=/path/to/python3"
    return 1
}

# Debian leaves ensurepip out of python3; three ways around it, the last of which needs root.
make_venv() {
    local python=$1
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        "$python" -m venv "$dir"
    elif "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m venv --without-pip "$dir"
        "$python" -m pip --python "$dir/bin/python" install pip
    elif command -v uv >/dev/null; then
        uv venv --seed --python "$python" "$dir"
    else
        local version
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        "$(dirname "$0")/apt.sh" "python$version-venv"
        "$python" -m venv "$dir"
    fi
}

if ! "$dir/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    say "making $dir with $("$python" --version)"
    rm -rf "$dir"
    make_venv "$python"
fi
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$requirement"
