#!/bin/sh
# Sees to a Chromium for the tests of pages: one that is installed, or Debian's. Without either those
# tests are skipped, but on CI they fail.
set -eu

for name in chromium chromium-browser google-chrome google-chrome-stable chrome; do
  if command -v "$name" >/dev/null; then exit 0; fi
done

as_root=
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root="sudo -n"; else as_root=none; fi
fi
if [ "$as_root" != none ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  if $as_root apt-get update -qq >/dev/null \
    && $as_root apt-get install -y -qq --no-install-recommends chromium >/dev/null; then
    exit 0
  fi
fi
echo "no Chromium, and none could be installed: install 'chromium' (Debian) or Google Chrome; tests of pages are skipped" >&2
if [ "${CI:-}" = true ]; then exit 1; fi
