#!/bin/bash
# In the virtual machine: what power cuts left of origins and COW stores of ours, as the kernel's dm-snapshot reads it.
#   snapshot-crashes.sh "$STATES"
# STATES has lines "SECTOR ORIGIN_SECTORS COW_SECTORS CHUNK TARGET SHA256"; the origin begins at SECTOR of /dev/vda, the store follows
# it. TARGET is snapshot: SHA256 is of its content, or "Invalid"; or snapshot-merge: of the origin at once, and when the merge is done.
# Each line of output that starts with "ok " is a state that the kernel reads as we do; the last line is "done".
set -eu
fail() { echo "FAILED: $*"; exit 1; }
modprobe dm-mod; modprobe dm-snapshot
merged() { dmsetup status snap | awk '{ split($4, used, "/"); exit used[1] != $5 }'; }
while read -r sector origin cow chunk target expected; do
  dmsetup create real --table "0 $origin linear /dev/vda $sector"
  dmsetup create cow --table "0 $cow linear /dev/vda $((sector + origin))"
  dmsetup mknodes
  dmsetup create snap --table "0 $origin $target /dev/mapper/real /dev/mapper/cow P $chunk"
  dmsetup mknodes
  status=$(dmsetup status snap)
  if [[ $status == *Invalid* ]]; then found=Invalid; else found=$(sha256sum </dev/mapper/snap | cut -d' ' -f1); fi
  [ "$found" = "$expected" ] || fail "at sector $sector: $found and not $expected ($status)"
  if [ "$target" = snapshot-merge ]; then
    end=$((SECONDS + 60))
    until merged; do [ $SECONDS -lt $end ] || fail "at sector $sector: still merging"; read -rt 0.1 <> <(:) || :; done
    status+=" -> $(dmsetup status snap)"
  fi
  echo "ok $sector $status"
  dmsetup remove snap
  if [ "$target" = snapshot-merge ]; then
    found=$(sha256sum </dev/mapper/real | cut -d' ' -f1)
    [ "$found" = "$expected" ] || fail "at sector $sector, merged: $found and not $expected ($status)"
  fi
  for name in cow real; do dmsetup remove "$name"; done
done <<<"$1"
echo done
