#!/usr/bin/env bash
# Put another build of ONNX Runtime into a virtual environment, in the place of the usual one:
#   scripts/runtime.sh DIR REQUIREMENT
# All builds install the same folder `onnxruntime`, so the one that goes must go first, and the one that comes is written
# again even where pip believes it is there.
set -euo pipefail

pip=("$1/bin/python" -m pip)
"${pip[@]}" uninstall --quiet --yes onnxruntime
"${pip[@]}" install --quiet --disable-pip-version-check --force-reinstall --no-deps "$2"
