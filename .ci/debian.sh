# shellcheck shell=bash
# Sourced after host.sh by what makes a Debian of its own with mmdebstrap.

# Debian's own keys, which a host that is not Debian need not have.
DEBIAN_KEYS=/usr/share/keyrings/debian-archive-keyring.gpg

# The mirrors that this host's apt takes Debian and its security updates from,
# as source lines for a suite; nothing on a host that is not Debian, and then
# mmdebstrap takes its own defaults.
debian_sources() {
  if [[ $(. /etc/os-release && echo "$ID") != debian ]]; then return; fi
  # shellcheck disable=SC2016 # the $(…) are apt's own placeholders
  apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
    awk -F'|' -v suite="$1" '
      seen[$2]++ || $1 != "Debian" { next }
      $2 == "Debian" { print "deb", $3, suite, "main"; print "deb", $3, suite "-updates", "main" }
      $2 == "Debian-Security" { print "deb", $3, suite "-security", "main" }'
}

need_debian_tools() {
  local missing=()
  have mmdebstrap || missing+=(mmdebstrap)
  [[ -e $DEBIAN_KEYS ]] || missing+=(debian-archive-keyring)
  if ((${#missing[@]})); then apt_install "${missing[@]}"; fi
}
