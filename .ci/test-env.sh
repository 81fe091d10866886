# shellcheck shell=bash
# Sourced after host.sh by what runs tests and measurements:
#   ISOL8_BIN_DIR        the folder with isol8, isol8d and isol8-init
#   ISOL8_TEST_CA_BUNDLE the host's certificate authorities, where it has such a
#                        file. On a network that re-signs TLS, builds of images
#                        and installs need them: `network.caBundle`.
PATH=$(.ci/need-runtimes):$PATH
export PATH ISOL8_BIN_DIR=$PWD/target/dist
if [[ -s /etc/ssl/certs/ca-certificates.crt ]]; then
  export ISOL8_TEST_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt
fi
