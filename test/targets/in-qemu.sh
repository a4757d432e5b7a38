#!/bin/sh
# in-qemu.sh EMULATOR COMMAND...: runs a command for arm64, and what it starts. The emulator is registered in a user namespace of its own (Linux
# 6.7 or newer), so that nothing of the machine changes; the command has no rights there, as an ordinary user.
EMULATOR=$1
shift
export EMULATOR
exec unshare --user --map-root-user --mount --propagation private sh -c '
  mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 125
  magic="\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00"
  mask="\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff"
  printf %s ":fdb-arm64:M::$magic:$mask:$EMULATOR:F" >/proc/sys/fs/binfmt_misc/register || exit 125
  exec unshare --user --map-user=1000 --map-group=1000 -- "$@"' sh "$@"
