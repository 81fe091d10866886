#!/bin/sh
# Becomes the first process of a Debian of its own: its root is $1, its processes,
# mounts, network and groups are nobody else's. The controllers of cgroup v1 are
# shown where a service that may see devices sees them: systemd itself is content
# with the empty tree of v2.
set -eu
root=$1
mount --make-rprivate /
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
  touch "dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm dev/groups
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs dev/shm
for controller in cpu cpuacct memory freezer pids; do
  mkdir "dev/groups/$controller"
  mount -t cgroup -o "$controller" cgroup "dev/groups/$controller"
done
mount -t tmpfs -o mode=755 tmpfs run
ip link set lo up
# Not `chroot`: in one nobody may make a user namespace.
pivot_root . .
umount -l .
# As systemd has it where it is first: what a service is given is mounted elsewhere.
mount --make-rshared /
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=multi-user.target
