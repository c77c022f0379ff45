#!/bin/bash
# In the virtual machine: fio writes every 4 KiB of an origin on /dev/vda once, with as many snapshots as each argument says. Prints
# "first SNAPSHOTS WRITES MILLISECONDS" for each.
set -eu
umount /tmp 2>/dev/null || :
modprobe dm-mod; modprobe dm-snapshot
vgcreate -qq -s 1m vg /dev/vda
for count in "$@"; do
  lvcreate -qq -y -Wn -Zn -L32m -n origin vg
  for ((i = 0; i < count; i++)); do lvcreate -qq -s -c4k -L36m -n "s$i" vg/origin; done
  dmsetup mknodes
  fio --name=first --filename=/dev/mapper/vg-origin --ioengine=libaio --direct=1 --rw=randwrite --bs=4k --iodepth=16 --size=32m \
    --randseed=7 --output-format=terse --terse-version=3 |
    awk -F';' -v count="$count" '/^3;fio/ { print "first", count, $47 / 4, $50 }'
  if dmsetup status | grep Invalid; then echo "a snapshot is invalid"; exit 1; fi
  lvremove -qq -f vg/origin
done
