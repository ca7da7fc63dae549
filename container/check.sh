#!/bin/sh
# Takes the steps of the container in a clean Debian root, with the root file system read-only and
# as the container's user, and has the service enlarge a picture there on the simulated card.
# Usage: check.sh FOLDER PYTHON, as root; PYTHON is of an environment that has built vramx. Wants
# mmdebstrap, and the Debian release of that Python.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mkdir -p "$1" && cd "$1" && pwd)
python=$2
wheels=$folder/wheels root=$folder/root
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
rm -rf "$root" "$wheels"/vramx-*.whl

"$python" -m pip wheel -q --no-deps --no-build-isolation -w "$wheels" "$here/.."
"$here/install.sh" build "$wheels"
mmdebstrap --quiet --variant=minbase "$suite" "$root"
mkdir "$root/wheels" "$root/steps"

# In a mount namespace of its own, which takes all mounts with it.
exec unshare --mount sh -eu -c '
  root=$1 wheels=$2 steps=$3
  mount --bind "$root" "$root"
  mount --bind "$wheels" "$root/wheels"
  mount --bind "$steps" "$root/steps"
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  chroot "$root" /steps/install.sh install /wheels
  umount "$root/wheels"
  for writable in /tmp /run/vramx /data; do mount -t tmpfs tmpfs "$root$writable" -o mode=1777; done
  mount -o remount,ro,bind "$root"
  exec chroot --userspec=10001:10001 "$root" \
    env -i HOME=/tmp VRAMX_RUNTIME_DIR=/run/vramx /opt/vramx/bin/python /steps/try_service.py
' sh "$root" "$wheels" "$here"
