#!/bin/sh
# Installs vramx's service, in two steps, so that what runs needs no compiler:
#   install.sh build WHEELS     makes the wheels of vramx, unless it is there, and of what it needs
#   install.sh install WHEELS   as root: installs them into /opt/vramx, for a user named vramx
# The first takes packages from where pip is set up to take them, in the versions of versions.txt;
# the second takes nothing but Debian's python3-venv from elsewhere.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=/opt/vramx
parts='service,models,torch,video,faces,onnx'

need() { # COMMAND PACKAGES...: has apt install them where the command does not work
  if ! sh -c "$1" >/dev/null 2>&1; then
    shift
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
  fi
}

case ${1:-} in
  build)
    wheels=${2:?a folder for the wheels}
    need 'python3 -c "import ensurepip" && g++ --version' python3-dev python3-venv g++
    room=$(mktemp -d)
    trap 'rm -rf "$room"' EXIT
    python3 -m venv "$room"
    set -- "$wheels"/vramx-*.whl
    [ -e "$1" ] || "$room/bin/python" -m pip wheel -q --no-deps -w "$wheels" "$here/.."
    "$room/bin/python" -m pip wheel -q -w "$wheels" --find-links "$wheels" \
      -c "$here/versions.txt" "vramx[$parts]"
    ;;
  install)
    wheels=${2:?the folder of the wheels}
    need 'python3 -c "import ensurepip"' python3-venv
    python3 -m venv "$target"
    "$target/bin/python" -m pip install -q --no-index --no-cache-dir --find-links "$wheels" \
      "vramx[$parts]"
    id vramx >/dev/null 2>&1 || useradd --uid 10001 --no-create-home vramx
    for folder in /data /models /run/vramx; do install -d -o vramx -g vramx -m 750 "$folder"; done
    ;;
  *)
    sed -n '2,6s/^# //p' "$0" >&2
    exit 2
    ;;
esac
