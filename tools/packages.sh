#!/bin/sh
# Installs the Debian packages that the build needs, if any is missing; without the right to, prints the one line to run.
# Usage: packages.sh [more packages]
set -eu
packages="g++ cmake ninja-build make pkg-config git python3 libfmt-dev nlohmann-json3-dev libcli11-dev libexpected-dev
  libssl-dev libonig-dev libsentencepiece-dev libutf8proc-dev libxxhash-dev libgtest-dev $*"

missing=""
for package in $packages; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then as_root=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root="sudo -n"
else
  echo "Packages are missing. Run this once, then try again:" >&2
  echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends$missing" >&2
  exit 1
fi
echo "Installing:$missing"
$as_root apt-get update -q
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -q -y --no-install-recommends $missing
