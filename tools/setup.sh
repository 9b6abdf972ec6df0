#!/bin/sh
# Builds .venv from requirements.lock: pip fetches the pinned uv, uv the rest, every file checked against its hash.
set -eu
cd "$(dirname "$0")/.."

fail() {
    printf 'Error: %s\n' "$1" >&2
    exit 2
}

in_range='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
python=
for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
    if "$candidate" -c "$in_range" >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    found=$("${PYTHON:-python3}" --version 2>/dev/null || echo "not there")
    fail "Python 3.11, 3.12 or 3.13 is needed and ${PYTHON:-python3} is $found; install one, or name it: make PYTHON=/path/to/python3.13"
fi

if ! .venv/bin/python -c "$in_range" >/dev/null 2>&1; then
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
        fail "$("$python" --version) comes without ensurepip or venv, which .venv is made with; install them (on Debian and Ubuntu the package is python3-venv)."
    "$python" -m venv --clear .venv || fail ".venv could not be made; see above."
fi

pinned=$(sed -n 's/^uv==\([^ ;]*\).*/\1/p' requirements.lock)
if [ "$(.venv/bin/uv --version 2>/dev/null | cut -d' ' -f2)" != "$pinned" ]; then
    sed -n '/^uv==/,/^ *# via/p' requirements.lock >.venv/uv.lock
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock ||
        fail "uv $pinned could not be installed with pip; see above."
fi

# uv reads its own settings, not pip's; an index named for pip alone is meant for it too.
if [ -n "${PIP_INDEX_URL:-}" ] && [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then
    export UV_DEFAULT_INDEX="$PIP_INDEX_URL"
fi
.venv/bin/uv pip install --python .venv/bin/python --require-hashes -r requirements.lock ||
    fail "What requirements.lock lists could not be installed; see above, and run the same command again."
.venv/bin/uv pip install --python .venv/bin/python --quiet --no-build-isolation --no-deps --editable . ||
    fail "The project itself could not be installed; see above."
# Bytecode of what every process imports, even where Python is told to write none: each start is seconds shorter then.
PYTHONDONTWRITEBYTECODE='' .venv/bin/python -c '
import jinja2, rich.console, scipy.optimize, scipy.stats, transformers.modeling_utils
import transformers.models.bert.modeling_bert, transformers.models.vit.modeling_vit
import redteam.cli.run, redteam.evaluation.computations
' || fail "torch or transformers cannot be imported; see above."
touch .venv/ready
