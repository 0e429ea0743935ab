#!/usr/bin/env bash
# See that there is a Chromium for the tests that drive a browser, from the system's packages where that is possible.
set -euo pipefail
for name in chromium chromium-browser google-chrome; do
  if command -v "$name" >/dev/null; then exit 0; fi
done
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
if command -v apt-get >/dev/null && as_root true 2>/dev/null; then
  echo "Installing chromium"
  as_root apt-get update -qq && as_root apt-get install -y -qq --no-install-recommends chromium >/dev/null && exit 0
fi
echo "No Chromium found and none could be installed: the tests that drive a browser are skipped." >&2
