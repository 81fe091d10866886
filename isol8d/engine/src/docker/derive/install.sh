# Installs the packages of a derived image with the image's own manager. Runs as
# root in a step of a build, in the folder that holds its files.
set -eu
umask 022
cd "${0%/*}"

# Each line is one argument, whatever is in it.
set --
while IFS= read -r package; do
  set -- "$@" "$package"
done <packages

# For mirrors whose certificate an authority of this network has signed. It is
# there for this step only.
authorities=
if [ -s ca-bundle.crt ]; then
  authorities=$PWD/authorities.crt
  cat /etc/ssl/certs/ca-certificates.crt ca-bundle.crt 2>/dev/null >"$authorities" || true
  export SSL_CERT_FILE="$authorities"
fi

if command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  # A name is a name: without the last option `a.b` would be a pattern too.
  apt() {
    apt-get -q -y -o Acquire::Retries=2 -o Acquire::Languages=none \
      -o APT::Cmd::Pattern-Only=true \
      ${authorities:+-o "Acquire::https::CAInfo=$authorities"} "$@"
  }
  apt update
  apt install --no-install-recommends -- "$@"
  rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old \
    /var/log/apt /var/log/dpkg.log
elif command -v apk >/dev/null; then
  apk add --no-cache -- "$@"
else
  echo "isol8: the image has no package manager that isol8 knows: neither apt-get nor apk" >&2
  exit 1
fi

here=$PWD
cd /
rm -r "$here"
