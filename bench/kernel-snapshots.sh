#!/bin/bash
# In the virtual machine: fio writes every 4 KiB of an origin on /dev/vda once, with as many snapshots as each argument says: of the
# kernel's dm-snapshot, and of our daemon behind the kernel's nbd client, with the same LVs, disk and load, in turn.
#   kernel-snapshots.sh ROUNDS SNAPSHOTS...
# Prints "first SIDE SNAPSHOTS WRITES MILLISECONDS" for each round, SIDE being "kernel" or "ours". Each side has written to an origin
# with two snapshots before, which does not count ("warm"): what is measured is compiled code.
set -eu
rounds=$1; shift
socket=/run/orion-bench.sock size=16
export LVM_SUPPRESS_FD_WARNINGS=1 DM_DISABLE_UDEV=1
volumes() { # volumes NAME SNAPSHOTS: an origin and its snapshots, by LVM2
  lvcreate -qq -y -Wn -Zn -L${size}m -n "$1" vg
  for ((n = 0; n < $2; n++)); do lvcreate -qq -y -s -c4k -L$((size + 2))m -n "$1s$n" "vg/$1"; done
}
write() { # write SIDE SNAPSHOTS DEVICE
  fio --name=first --filename="$3" --ioengine=libaio --direct=1 --rw=randwrite --bs=4k --iodepth=16 --size=${size}m --randseed=7 \
    --output-format=terse --terse-version=3 >/run/fio.txt
  awk -F';' -v what="$1 $2" '/^3;fio/ { print "first", what, $47 / 4, $50 }' /run/fio.txt
}
ours() { # ours SNAPSHOTS
  nbd-client -unix "$socket" -N "vg/o$1" /dev/nbd0 -b 4096 >/dev/null
  write ours "$1" /dev/nbd0
  nbd-client -d /dev/nbd0 >/dev/null
}
umount /tmp 2>/dev/null || :
modprobe dm-mod; modprobe dm-snapshot; modprobe nbd nbds_max=1
vgcreate -qq -s 1m vg /dev/vda
for ((round = 0; round < rounds; round++)); do
  for count in warm "$@"; do
    volumes origin "${count/warm/2}"
    write kernel "$count" /dev/mapper/vg-origin
    if dmsetup status | grep Invalid; then echo 'a snapshot is invalid'; exit 1; fi
    lvremove -qq -f vg/origin
  done
  for count in warm "$@"; do volumes "o$count" "${count/warm/2}"; done
  vgchange -qq -an vg
  bin/orion-lvmd --devices /dev/vda --listen "unix:$socket" --control /run/orion-bench.ctl --workers 0 >/run/orion.log 2>&1 & daemon=$!
  until nbd-client -unix "$socket" -l >/dev/null 2>&1; do kill -0 $daemon || { cat /run/orion.log; exit 1; }; sleep 0.2; done
  for count in warm "$@"; do ours "$count"; done
  kill $daemon; wait $daemon || :
  if grep -i invalid /run/orion.log; then exit 1; fi
  vgremove -qq -f vg; vgcreate -qq -s 1m vg /dev/vda
done
