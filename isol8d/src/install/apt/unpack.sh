# Lays what packages hold out as one tree with `usr` in it. Scripts of packages
# are not run: they want a system of their own, and root.
set -eu
cd /sandbox/.apt/tree
for package in /sandbox/.isol8-install/apt/cache/archives/*.deb; do
  [ -e "$package" ] || continue
  dpkg-deb -x "$package" .
  rm -- "$package"
done

# Where the host has merged these folders into /usr, so are those of packages.
for name in bin sbin lib lib32 lib64 libx32; do
  if [ -L "/$name" ] && [ -d "$name" ]; then
    mkdir -p "usr/$name"
    cp -alf "$name/." "usr/$name/"
    rm -rf "$name"
  fi
done
# The rest would be in nobody's way and is not shown.
rm -rf boot dev etc home media mnt opt proc root run sandbox srv sys tmp var
chmod -R u+rwX .

# A link that names its target from the root says the same with `..`, which holds
# for a tree that is copied.
find . -type l -lname '/*' -printf '%P\n%l\n' | while IFS= read -r link && IFS= read -r target; do
  up=
  rest=$link
  while [ "${rest#*/}" != "$rest" ]; do
    rest=${rest#*/}
    up=../$up
  done
  ln -sfn -- "$up${target#/}" "$link"
done
