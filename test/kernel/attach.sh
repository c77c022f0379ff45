#!/bin/bash
# In the virtual machine: `orion-lvm attach` and `detach` with the kernel's nbd, udev's names, and sizes that change.
#   attach.sh VG LV BYTES     with the volume group on /dev/vda
# Each line of output that starts with "ok " is a check that held; the last line is "done".
set -eu
vg=$1 lv=$2 bytes=$3 name=$1/$2
fail() { echo "FAILED: $*"; cat /run/orion-lvmd.log; ps ax -o pid,stat,wchan,time,args | grep -v "\[" | tail; dmesg | tail -5; exit 1; }
ok() { echo "ok $*"; }
. "${BASH_SOURCE%/*}/wait.sh"
refused() { # refused PATTERN COMMAND...: the command fails and says so
  local pattern=$1 said; shift
  if said=$("$@" 2>&1); then fail "$* should have been refused: $said"; fi
  grep -q "$pattern" <<<"$said" || fail "$* said: $said"
}
start_daemon() { bin/orion-lvmd --devices /dev/vda >>/run/orion-lvmd.log 2>&1 & daemon=$!; wait_for 240 says /run/orion-lvmd.log 'ready: '; }
stop_daemon() { kill -TERM "$daemon"; wait "$daemon" || fail "the daemon exited with $? on SIGTERM"; : >/run/orion-lvmd.log; }
size() { blockdev --getsize64 /dev/nbd0; }
clients() { curl -s --unix-socket /run/orion-lvm/control.sock http://localhost/v1/status | grep -q "\"clients\": $1"; }
has_size() { [ "$(size)" = "$1" ]; }

mkdir -p /run/udev /etc/udev/rules.d; cp packaging/61-orion-lvm.rules /etc/udev/rules.d/
/lib/systemd/systemd-udevd --daemon; udevadm trigger --subsystem-match=block; udevadm settle

refused "No orion-lvmd is running" bin/orion-lvm attach "$name"
start_daemon
refused "has no logical volume" bin/orion-lvm attach "$vg/nothing"
refused "no device /dev/nbdN" bin/orion-lvm attach "$name" /dev/vda

bin/orion-lvm attach "$name" | grep -q "Logical volume $name attached to /dev/nbd0." || fail "attach"
has_size "$bytes" || fail "the size is $(size)"
[ "$(readlink -f "/dev/$vg/$lv")" = /dev/nbd0 ] || fail "no link /dev/$vg/$lv: $(ls -l /dev/$vg 2>&1; cat /run/orion-lvm/attached/nbd0)"
[ "$(readlink -f "/dev/mapper/$(sed -n 's/^ORION_LVM_MAPPER=//p' /run/orion-lvm/attached/nbd0)")" = /dev/nbd0 ] || fail "no link in /dev/mapper"
bin/orion-lvm attach "$name" | grep -q "is attached to /dev/nbd0" || fail "attaching twice"
bin/orion-lvm status | grep -q "^ */dev/nbd0  *$name " || fail "status: $(bin/orion-lvm status)"
refused "attached to /dev/nbd0 already" bin/orion-lvm attach "$name" /dev/nbd1
ok "attached, linked, and attached only once"

mkfs.ext4 -q "/dev/$vg/$lv"; mkdir -p /run/mnt; mount "/dev/$vg/$lv" /run/mnt
refused "in use: /dev/nbd0 is mounted on /run/mnt" bin/orion-lvm detach "$name"
head -c 1000000 /dev/urandom >/run/mnt/file; sha256sum </run/mnt/file >/run/sum
ok "a mounted device stays attached"

# The kernel's size follows at once while the device is connected, mounted, and under I/O.
(while [ ! -e /run/enough ]; do dd if=/run/mnt/file of=/run/mnt/copy bs=64k oflag=direct status=none || exit 1; done) & load=$!
extended=$((bytes + 4 * 1048576))
bin/lvextend -L "${extended}b" "$name" >/run/lvextend.log 2>&1 || fail "lvextend: $(cat /run/lvextend.log)"
has_size "$extended" || fail "after lvextend the size is $(size)"
resize2fs /dev/nbd0 >/dev/null 2>&1 || fail "resize2fs"
touch /run/enough; wait "$load" || fail "I/O while it grew"
cmp -s /run/mnt/file /run/mnt/copy || fail "what was written while it grew"
bytes=$extended
sha256sum </run/mnt/file | cmp -s - /run/sum || fail "the file has changed"
umount /run/mnt; fsck.ext4 -fn /dev/nbd0 >/dev/null 2>&1 || fail "fsck"
ok "the kernel's size follows lvextend while it is mounted and written"

bin/orion-lvm detach "/dev/$vg/$lv" | grep -q "detached from /dev/nbd0" || fail "detach"
[ ! -e /sys/block/nbd0/pid ] || fail "still connected"
[ ! -e "/run/orion-lvm/attached/nbd0" ] || fail "still noted"
udevadm settle; [ ! -L "/dev/$vg/$lv" ] || fail "the link is still there"
refused "is not attached by" bin/orion-lvm detach "$name"
ok "detached, and the names are gone"

bin/orion-lvm attach "$name" /dev/nbd2 --connections 4 --timeout 30 --blocksize 4096 --readonly >/dev/null || fail "attach with options"
[ "$(blockdev --getss /dev/nbd2) $(blockdev --getro /dev/nbd2)" = "4096 1" ] || fail "block size or read-only"
clients 4 || fail "four connections"
stop_daemon; start_daemon
wait_for 60 clients 4 || fail "four connections to the next daemon"
bin/orion-lvm status | grep -q "^ */dev/nbd2  *$name " || fail "status: $(bin/orion-lvm status)"
fsck.ext4 -fn /dev/nbd2 >/dev/null 2>&1 || fail "fsck after the daemon's restart"
bin/orion-lvm detach /dev/nbd2 >/dev/null || fail "detach by the device's name"
ok "options reach the kernel, and the next daemon gives the device its connections again"
stop_daemon
echo done
