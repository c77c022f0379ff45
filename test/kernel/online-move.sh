#!/bin/bash
# In the virtual machine: ext4 on /dev/nbd0 under fio with verification, while pvmove takes the volume to another PV and back and
# `lvchange --refresh` suspends and resumes it again and again. /dev/vda, /dev/vdb: two empty disks.
# Each line of output that starts with "ok " is a check that held; the last line is "done".
set -eu
socket=/run/orion-test.sock
export ORION_LVM_CONTROL=/run/orion-control.sock ORION_LVM_DEVICES=/dev/vda,/dev/vdb
fail() { echo "FAILED: $*"; tail -n 50 /run/orion-lvmd.log /run/fio.log 2>/dev/null; dmesg | tail -n 20; exit 1; }
ok() { echo "ok $*"; }
wait_for() { # wait_for SECONDS COMMAND...: until the command succeeds
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || fail "waiting for: $*"; read -rt 0.1 <> <(:) || :; done
}
on() { bin/lvs --noheadings -a -o devices vg0 | grep -q "$1"; }

modprobe nbd nbds_max=2
modprobe dm-mod
bin/vgcreate vg0 /dev/vda /dev/vdb
bin/lvcreate -L 48m -n data vg0 /dev/vda
bin/orion-lvmd --devices "$ORION_LVM_DEVICES" --listen "unix:$socket" --control "$ORION_LVM_CONTROL" --workers 1 >/run/orion-lvmd.log 2>&1 & daemon=$!
wait_for 300 nbd-client -unix "$socket" -l
nbd-client -unix "$socket" -N vg0/data /dev/nbd0 -C 2 -b 4096 >/dev/null
mkfs.ext4 -q /dev/nbd0; mkdir -p /run/mnt; mount /dev/nbd0 /run/mnt
dd if=/dev/urandom of=/run/mnt/still bs=1M count=4 conv=fsync status=none; sha256sum </run/mnt/still >/run/still.sum

fio --name=load --directory=/run/mnt --size=24m --rw=randwrite --bs=4k --ioengine=libaio --direct=1 --iodepth=16 \
  --verify=crc32c --verify_backlog=128 --verify_fatal=1 --fsync=64 --time_based=1 --runtime=3600 >/run/fio.log 2>&1 & fio=$!
wait_for 60 test -s /run/mnt/load.0.0
working() { kill -0 $fio || fail "fio ended: it found a wrong byte, or could not go on"; }

bin/pvmove /dev/vda /dev/vdb || fail "pvmove there"
on /dev/vda && fail "extents are left on /dev/vda"
working
ok "moved to another PV under writes"
for round in 1 2 3 4; do bin/lvchange --refresh vg0/data || fail "refresh $round"; done
working
ok "suspended and resumed under writes"
bin/pvmove /dev/vdb /dev/vda || fail "pvmove back"
on /dev/vdb && fail "extents are left on /dev/vdb"
working
ok "moved back under writes"
kill -INT $fio; wait $fio || :
grep -q 'err= 0' /run/fio.log && ! grep -q 'verify:' /run/fio.log || fail "fio found wrong bytes"
sha256sum </run/mnt/still | cmp - /run/still.sum || fail "a file changed"
umount /run/mnt
fsck.ext4 -fn /dev/nbd0 >/dev/null 2>&1 || fail "fsck"
dmesg | grep -i "nbd0.*error\|I/O error" && fail "the kernel saw I/O errors"
sha256sum </dev/nbd0 >/run/ours.whole
nbd-client -d /dev/nbd0 >/dev/null
kill -TERM $daemon; wait $daemon || fail "the daemon exited with $?"
ok "no wrong byte, and the file system is clean"

vgck vg0 || fail "LVM2's vgck"
vgchange -qq -ay vg0; dmsetup mknodes
sha256sum </dev/mapper/vg0-data | cmp - /run/ours.whole || fail "LVM2 sees other bytes"
ok "LVM2 activates what was moved, with the same bytes"
echo done
