# Prints where this image's package manager takes packages from. Nothing is
# fetched.
set -eu
if command -v apt-get >/dev/null; then
  # No lock can be had here, where nobody is root and nothing can be written.
  apt-get -q -o Debug::NoLocking=true update --print-uris
  # Lists of mirrors, of which apt only tells the names.
  cat /etc/apt/mirrors/* 2>/dev/null || true
elif command -v apk >/dev/null; then
  cat /etc/apk/repositories
  cat /etc/apk/repositories.d/*.list 2>/dev/null || true
else
  exit 127
fi
