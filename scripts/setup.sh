#!/usr/bin/env bash
# Make .venv with everything that demo, tests and JupyterLab need. `make` calls it once, and again when what it reads has changed.
# Usage: scripts/setup.sh PYTHON
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$1
venv=.venv

say() { printf '\033[1m%s\033[0m\n' "$*"; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "nbdream needs Python 3.11 or newer, and '$python' is not. Another one: make PYTHON=python3.12 …" >&2
  exit 1
fi
if [ ! -x "$venv/bin/python" ]; then
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    say "Installing python3-venv"
    as_root apt-get update -qq && as_root apt-get install -y -qq --no-install-recommends python3-venv || {
      echo "Python's venv module is missing. On Debian or Ubuntu: sudo apt-get install python3-venv" >&2
      exit 1
    }
  fi
  say "Making $venv"
  "$python" -m venv "$venv"
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1
# Modules compile when they are first imported; compiling all of torch ahead takes longer than the rest of the set-up.
pip() { "$venv/bin/python" -m pip install --quiet --no-compile "$@"; }
pip --upgrade pip
# Node's packages come while Python's do. The extension itself is built when nbdream is installed (scripts/labextension.py).
if command -v npm >/dev/null && [ ! node_modules/.package-lock.json -nt package-lock.json ]; then
  npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null &
  node_packages=$!
fi
say "Installing torch, then the rest (about 2 GB, a few minutes the first time)"
# torch first: what depends on it would otherwise choose a build of its own.
pip "$(grep '^torch==' constraints.txt)"
if [ -n "${node_packages:-}" ]; then wait "$node_packages" || true; fi
pip --constraint constraints.txt --editable '.[all,test]'
if [ ! -e nbdream/labextension/package.json ]; then
  echo "There is no JupyterLab extension (side panel, badges), and everything else is there: it is built by Node 20 or newer, then make setup again."
fi
