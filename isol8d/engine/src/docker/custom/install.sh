# Installs the packages of a custom image where programs in /sandbox find them.
# Runs as root in a step of a build, in the folder that holds its files, with the
# runtime for an argument. What only the installer needs stays in that folder.
set -eu
umask 022
cd "${0%/*}"
here=$PWD
runtime=$1

# Each line is one argument, whatever is in it.
set --
while IFS= read -r package; do
  set -- "$@" "$package"
done <packages

mkdir scratch project
export HOME="$here/scratch" TMPDIR="$here/scratch" NO_COLOR=1
# Every base image has the authorities of this network in its own store.
store=/etc/ssl/certs/ca-certificates.crt
export PIP_CERT="$store" NODE_EXTRA_CA_CERTS="$store" DENO_CERT="$store"
cd project
case $runtime in
  python)
    /usr/bin/python3 -m pip install --no-input --disable-pip-version-check \
      --no-cache-dir --no-warn-script-location --root-user-action ignore \
      --progress-bar off -- "$@"
    ;;
  node)
    # Not in / itself, where npm finds no name for its project.
    npm_config_cache="$here/scratch/npm" npm_config_update_notifier=false \
      npm install --no-audit --no-fund --no-save --no-package-lock --no-progress -- "$@"
    mv node_modules /node_modules
    ;;
  bun)
    BUN_INSTALL_CACHE_DIR="$here/scratch/bun" BUN_TMPDIR="$here/scratch" \
      bun add --no-save --no-progress -- "$@"
    mv node_modules /node_modules
    ;;
  deno)
    import=
    for package; do
      case $package in https://*) import=--allow-import ;; esac
    done
    # The image's own variable says where to.
    DENO_NO_UPDATE_CHECK=1 deno cache ${import:+"$import"} -- "$@"
    ;;
  *)
    echo "isol8: no recipe for $runtime" >&2
    exit 1
    ;;
esac

cd /
rm -rf "$here"
