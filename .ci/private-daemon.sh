# shellcheck shell=bash
# Sourced after host.sh: the binaries of target/dist with a socket, a state
# folder and a configuration of their own, so that neither a daemon of this
# host nor a person's configuration has a part in what follows.

# Usage: private_daemon CONFIG_JSON. The daemon starts with the first command
# and is gone, with its folder, when the script ends.
private_daemon() {
  PATH=$PWD/target/dist:$PATH
  private_folder=$(mktemp -d /tmp/isol8.XXXXXX)
  # The sandboxes' own users have to pass through it.
  chmod 0711 "$private_folder"
  mkdir -m 0711 "$private_folder/run" "$private_folder/state"
  printf '%s\n' "$1" >"$private_folder/config.json"
  export PATH ISOL8_CONFIG=$private_folder/config.json
  export ISOL8_SOCKET=$private_folder/run/isol8d.sock ISOL8_STATE_DIR=$private_folder/state
  trap end_private_daemon EXIT
}

end_private_daemon() {
  if [[ -S $ISOL8_SOCKET ]] && ! isol8 daemon stop >&2; then
    say "the daemon did not stop: what it left is in $private_folder"
    return
  fi
  rm -rf "$private_folder"
}
