#!/bin/bash
# In the virtual machine: what power cuts left of origins and COW stores of ours, as the kernel's dm-snapshot reads it.
#   snapshot-crashes.sh "$STATES"
# STATES has lines "SECTOR ORIGIN_SECTORS COW_SECTORS CHUNK SHA256", SHA256 being of the snapshot's content, or "Invalid"; the origin
# begins at SECTOR of /dev/vda, the store follows it. Each line of output that starts with "ok " is a state that the kernel reads
# as we do; the last line is "done".
set -eu
fail() { echo "FAILED: $*"; exit 1; }
modprobe dm-mod; modprobe dm-snapshot
while read -r sector origin cow chunk expected; do
  dmsetup create real --table "0 $origin linear /dev/vda $sector"
  dmsetup create cow --table "0 $cow linear /dev/vda $((sector + origin))"
  dmsetup mknodes
  dmsetup create snap --table "0 $origin snapshot /dev/mapper/real /dev/mapper/cow P $chunk"
  dmsetup mknodes
  status=$(dmsetup status snap)
  if [[ $status == *Invalid* ]]; then found=Invalid; else found=$(sha256sum </dev/mapper/snap | cut -d' ' -f1); fi
  [ "$found" = "$expected" ] || fail "at sector $sector: $found and not $expected ($status)"
  echo "ok $sector $status"
  for name in snap cow real; do dmsetup remove "$name"; done
done <<<"$1"
echo done
