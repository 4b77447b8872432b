#!/usr/bin/env bash
# Install Debian packages, as root or through sudo, and say plainly when neither is possible:  scripts/apt.sh PACKAGE…
set -euo pipefail

fail() {
    printf 'penstock: %s is needed and cannot be installed here: %s\n' "$packages" "$1" >&2
    printf 'penstock: as root: apt-get update && apt-get install %s\n' "$packages" >&2
    exit 1
}

packages=$*
command -v apt-get >/dev/null || fail "this machine has no apt-get"

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "you are not root and there is no sudo"
    as_root=(sudo)
    # Without a terminal nobody could type the password: fail at once instead of hanging.
    [ -t 0 ] || as_root=(sudo --non-interactive)
fi
printf 'penstock: installing %s\n' "$packages" >&2
as_root+=(env DEBIAN_FRONTEND=noninteractive)
"${as_root[@]}" apt-get update -qq </dev/null || fail "apt-get update failed"
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" </dev/null >&2 || fail "apt-get install failed"
