# shellcheck shell=bash
# Sourced by the scripts beside it: what they do to the host, in one place.
# Everything said goes to stderr, so that a caller can read a script's stdout.

say() { printf '==> %s\n' "$*" >&2; }

# Ends with a message that says what to type. Usage: die WHAT [HINT]
die() {
  printf 'error: %s\n' "$1" >&2
  if [[ $# -gt 1 ]]; then printf 'hint: %s\n' "$2" >&2; fi
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root: directly, or through a sudo that asks nothing.
as_root() {
  if [[ $(id -u) -eq 0 ]]; then
    "$@"
  elif have sudo && sudo -n true 2>/dev/null; then
    sudo -n "$@"
  else
    die "this step needs root: $*" "run it yourself with sudo, then call the same target again"
  fi
}

# Checks a condition every quarter of a second for a bounded time.
# Usage: wait_until SECONDS COMMAND...
wait_until() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    if ((SECONDS >= end)); then return 1; fi
    sleep 0.25
  done
}

# Installs distribution packages. The package lists are fetched only when the
# first try shows that they are missing or too old; another apt that holds the
# lock is waited for.
apt_install() {
  have apt-get || die "cannot install $* here: this host has no apt-get" \
    "install them with your distribution's package manager (names may differ), then try again"
  say "installing $*"
  local get=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600)
  if ! as_root "${get[@]}" install --no-install-recommends "$@" >&2; then
    # A third-party list that cannot be fetched must not stop us: the install
    # below is what decides.
    as_root "${get[@]}" update >&2 || say "apt-get update had errors; going on with what it got"
    as_root "${get[@]}" install --no-install-recommends "$@" >&2 ||
      die "apt-get could not install $*" "check the network and the apt sources of this host"
  fi
}
