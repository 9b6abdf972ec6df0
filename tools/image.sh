#!/bin/sh
# The steps of the Dockerfile that install: `image.sh dependencies VENV`, `image.sh wheel FOLDER`.
# Files come from the wheels in $WHEELS, without a network, or from the index whose address is in the file $INDEX.
set -eu
cd "$(dirname "$0")/.."
wheels=${WHEELS:-/wheels} index=${INDEX:-/run/secrets/index}

if [ -n "$(find "$wheels" -name '*.whl' 2>/dev/null | head -n 1)" ]; then
    set -- "$@" --no-index --find-links "$wheels"
elif [ -s "$index" ]; then
    PIP_INDEX_URL=$(cat "$index")
    export PIP_INDEX_URL UV_DEFAULT_INDEX="$PIP_INDEX_URL"
else
    echo "Error: neither wheels nor an index; give --build-context wheels=FOLDER or --secret id=index,env=PIP_INDEX_URL." >&2
    exit 2
fi
what=$1 where=$2
shift 2

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools"
sed -n '/^uv==/,/^ *# via/p' requirements.lock >"$tools/uv.lock"
"$tools/bin/python" -m pip install --quiet --no-cache-dir --require-hashes "$@" -r "$tools/uv.lock"

case $what in
dependencies)
    python3 -m venv --without-pip "$where"
    "$tools/bin/uv" pip install --no-cache --compile-bytecode --python "$where/bin/python" "$@" \
        --constraints requirements.lock --extra mlflow --extra open-clip --extra optuna -r pyproject.toml
    ;;
wheel)
    "$tools/bin/uv" pip install --quiet --no-cache --python "$tools/bin/python" "$@" \
        --constraints requirements.lock hatchling
    "$tools/bin/python" -m hatchling build -t wheel -d "$where"
    ;;
*)
    echo "Error: image.sh makes 'dependencies' or 'wheel', not '$what'." >&2
    exit 2
    ;;
esac
