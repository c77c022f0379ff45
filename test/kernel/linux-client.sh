#!/bin/bash
# In the virtual machine: what Linux's own nbd client, ext4 and LVM2 make of our exports.
#   linux-client.sh "$MANIFEST"      its lines as one argument, with the golden volume group "basic" on /dev/vda and /dev/vdb
# Each line of output that starts with "ok " is a check that held; the last line is "done".
set -eu
manifest=$1 socket=/run/orion-test.sock daemon=
fail() { echo "FAILED: $*"; cat /run/orion-lvmd.log; exit 1; }
ok() { echo "ok $*"; }

wait_for() { # wait_for SECONDS COMMAND...: until the command succeeds
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || fail "waiting for: $*"; read -rt 0.1 <> <(:) || :; done
}
start_daemon() {
  bin/orion-lvmd --devices /dev/vda,/dev/vdb --listen "unix:$socket" >/run/orion-lvmd.log 2>&1 & daemon=$!
  wait_for 60 nbd-client -unix "$socket" -l
}
stop_daemon() { kill -TERM "$daemon"; wait "$daemon" || fail "the daemon exited with $? on SIGTERM"; }
attach() { # attach EXPORT DEVICE [OPTION...]
  local export=$1 device=$2; shift 2
  nbd-client -unix "$socket" -N "$export" "$device" "$@" >/dev/null
}
detach() { nbd-client -d "$1" >/dev/null; wait_for 30 sh -c "! nbd-client -c $1"; }

modprobe nbd nbds_max=4
modprobe dm-mod

start_daemon
while read -r name size hash; do
  attach "vg_basic/$name" /dev/nbd0 -C 4 -b 512
  [ "$(blockdev --getsize64 /dev/nbd0)" = "$size" ] || fail "$name: wrong size"
  [ "$(sha256sum </dev/nbd0 | cut -d' ' -f1)" = "$hash" ] || fail "$name: wrong content"
  if [ "$name" = lin ]; then
    fsck.ext4 -fn /dev/nbd0 >/dev/null 2>&1 || fail "fsck of lin"
    mkdir -p /run/mnt; mount -o ro,noload /dev/nbd0 /run/mnt; [ -n "$(ls /run/mnt)" ] || fail "lin is empty"; umount /run/mnt
    ok "lin's ext4 is clean and mounts"
  fi
  detach /dev/nbd0
  ok "$name has the manifest's hash"
done <<<"$manifest"

# Written through our export, read by LVM2.
attach vg_basic/span /dev/nbd1 -b 4096
mkfs.ext4 -q /dev/nbd1; mount -o discard /dev/nbd1 /run/mnt
cp -r /etc/init.d /run/mnt/a; rm -rf /run/mnt/a/[a-m]*; dd if=/dev/urandom of=/run/mnt/random bs=1M count=4 conv=fsync status=none
(cd /run/mnt && find . -type f -print0 | sort -z | xargs -0 sha256sum) >/run/ours.sums
fstrim /run/mnt; umount /run/mnt
fsck.ext4 -fn /dev/nbd1 >/dev/null 2>&1 || fail "fsck after writing through the export"
sha256sum </dev/nbd1 >/run/ours.whole
detach /dev/nbd1
stop_daemon
ok "wrote a file system through the export"

vgchange -qq -ay vg_basic; dmsetup mknodes; span=/dev/mapper/vg_basic-span
sha256sum <$span >/run/theirs.whole; cmp /run/ours.whole /run/theirs.whole || fail "LVM2 sees other bytes in span"
fsck.ext4 -fn $span >/dev/null 2>&1 || fail "fsck under LVM2"
mount $span /run/mnt
(cd /run/mnt && sha256sum --quiet -c /run/ours.sums) || fail "files differ under LVM2"
ok "LVM2 reads what was written through the export"

# Written by LVM2, read through our export.
rm -rf /run/mnt/a; cp -r /etc/default /run/mnt/b; cp /etc/services /run/mnt/
(cd /run/mnt && find . -type f -print0 | sort -z | xargs -0 sha256sum) >/run/theirs.sums
umount /run/mnt
sha256sum <$span >/run/theirs.whole; vgchange -qq -an vg_basic

start_daemon
attach vg_basic/span /dev/nbd1 -C 2 -b 1024
sha256sum </dev/nbd1 >/run/ours.whole; cmp /run/ours.whole /run/theirs.whole || fail "we see other bytes in span than LVM2 wrote"
mount -o ro /dev/nbd1 /run/mnt
(cd /run/mnt && sha256sum --quiet -c /run/theirs.sums) || fail "files differ through the export"
umount /run/mnt; detach /dev/nbd1
stop_daemon
ok "the export shows what LVM2 wrote"
echo done
