#!/usr/bin/env bash
# Makes the Python environment with gRPC and the code for the messages of cri.proto.
# Usage: tests/e2e/cri/build.sh DIR
set -euo pipefail
here=$(dirname "$0") built=$1

if [ ! -x "$built/bin/python" ]; then
    /usr/bin/python3 -m venv "$built"
    "$built/bin/pip" install --quiet --disable-pip-version-check grpcio grpcio-tools
fi
"$built/bin/python" -m grpc_tools.protoc -I"$here" --python_out="$built" --grpc_python_out="$built" cri.proto
