#!/bin/sh
# Makes .venv with everything the asked-for lock file names. Needs only Python >= 3.11 (Debian's may come without pip and venv).
#   tools/venv.sh LOCK          e.g. tools/venv.sh requirements-dev.lock
set -eu
cd "$(dirname "$0")/.."
lock=$1
stamp=.venv/.$(basename "$lock")
py=""
for p in ${PYTHON:-} python3.14 python3.13 python3.12 python3.11 python3; do
  if command -v "$p" >/dev/null 2>&1 && "$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then py=$p; break; fi
done
[ -n "$py" ] || { echo "waypost needs Python >= 3.11; set PYTHON=/path/to/python3.11" >&2; exit 1; }

make_venv() {
  rm -rf .venv
  "$py" -m venv .venv >/dev/null 2>&1 && return                       # the ordinary way
  rm -rf .venv
  if "$py" -m pip --version >/dev/null 2>&1; then                     # no ensurepip, but a pip
    "$py" -m venv --without-pip .venv && "$py" -m pip -q --python .venv/bin/python install pip && return
  fi
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then   # Debian keeps ensurepip in a package of its own
    echo "installing python3-venv"; { apt-get update -qq; apt-get install -y -qq python3-venv; } >/dev/null 2>&1 || true
    rm -rf .venv; "$py" -m venv .venv >/dev/null 2>&1 && return
  fi
  rm -rf .venv; "$py" -m venv --without-pip .venv                     # last way: pip's own bootstrap script
  "$py" -c 'import urllib.request,sys; sys.stdout.buffer.write(urllib.request.urlopen("https://bootstrap.pypa.io/get-pip.py", timeout=60).read())' | .venv/bin/python - -q
}

[ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1 || { echo "making .venv with $py"; make_venv; }
if [ ! -e "$stamp" ] || ! cmp -s "$lock" "$stamp" || [ pyproject.toml -nt "$stamp" ]; then
  echo "installing $lock"
  .venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r "$lock"
  .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
  .venv/bin/python -m compileall -q src || true   # a start without byte code costs 100 ms more
  cp "$lock" "$stamp"
fi
