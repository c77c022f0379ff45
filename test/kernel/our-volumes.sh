#!/bin/bash
# In the virtual machine: the kernel activates volume groups that our commands made, and what our daemon wrote is in place.
#   our-volumes.sh VG "$MANIFEST"    lines "LV BYTES SHA256" as one argument, with the volume group on all disks
# Each line of output that starts with "ok " is a check that held; the last line is "done".
set -eu
vg=$1 manifest=$2
fail() { echo "FAILED: $*"; exit 1; }
ok() { echo "ok $*"; }

modprobe dm-mod
said=$(vgck "$vg" 2>&1) || fail "vgck: $said"
[ -z "$said" ] || fail "vgck said: $said"
vgchange -qq -ay "$vg"; dmsetup mknodes
while read -r lv bytes hash; do
  device=/dev/mapper/$vg-$lv
  [ "$(blockdev --getsize64 "$device")" = "$bytes" ] || fail "$lv: wrong size"
  [ "$(sha256sum <"$device" | cut -d' ' -f1)" = "$hash" ] || fail "$lv: wrong content"
  ok "$lv is as we left it"
done <<<"$manifest"

# The kernel's own turn, for us to read afterwards.
lvextend -qq -l +3 "$vg/linear"; lvcreate -qq -y -Zn -Wn -l 4 -i 2 -n theirs "$vg"; dmsetup mknodes
dd if=/dev/urandom of="/dev/mapper/$vg-theirs" bs=1M oflag=direct status=none 2>/dev/null || :
dd if=/dev/urandom of="/dev/mapper/$vg-linear" bs=64K seek=3 count=40 conv=notrunc,fsync status=none
for lv in linear theirs; do echo "now $lv $(sha256sum <"/dev/mapper/$vg-$lv" | cut -d' ' -f1)"; done
vgchange -qq -an "$vg"
echo done
