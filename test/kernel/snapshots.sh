#!/bin/bash
# In the virtual machine: the kernel's dm-snapshot on a volume group that our daemon has written, and the other way round.
#   snapshots.sh VG "$MANIFEST" [merge LV | finish LV]
# MANIFEST has lines "LV SHA256". Then everything is written; "merge" begins to merge a snapshot and leaves it half done, "finish"
# waits until the merge that somebody began is done. Prints "now LV SHA256" for each LV afterwards; the last line is "done".
set -eu
vg=$1 manifest=$2 action=${3:-} lv=${4:-}
fail() { echo "FAILED: $*"; exit 1; }
wait_for() { # wait_for SECONDS COMMAND...: until the command succeeds
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || fail "waiting for: $*"; read -rt 0.1 <> <(:) || :; done
}
merged() { dmsetup status "$vg-origin" | awk '{ split($4, used, "/"); exit used[1] != $5 }'; }
merging() { dmsetup table "$vg-origin" | grep -q ' snapshot-merge '; }
gone() { ! lvs -a "$vg/$1"; }
hash() { sha256sum <"/dev/mapper/$vg-$1" | cut -d' ' -f1; }

modprobe dm-mod; modprobe dm-snapshot
[ "$action" = finish ] || echo 1 >/sys/module/dm_snapshot/parameters/snapshot_copy_throttle
vgchange -qq -ay --poll n --monitor n "$vg"; dmsetup mknodes; dmsetup table; dmsetup status
while read -r name expected; do
  dmsetup status "$vg-$name" | grep -q Invalid && fail "$name is invalid"
  [ "$(hash "$name")" = "$expected" ] || fail "$name: wrong content"
  echo "ok $name is as we left it"
done <<<"$manifest"

if [ "$action" = finish ]; then
  wait_for 120 merged
  dmsetup status "$vg-origin"
  lvconvert -qq --merge --interval 1 "$vg/$lv" 2>/dev/null || :
  vgchange -qq --poll y "$vg"
  wait_for 100 gone "$lv"
  dmsetup mknodes
fi

seed=$RANDOM
while read -r name _; do
  [ -e "/dev/mapper/$vg-$name" ] || continue
  blocks=$(($(blockdev --getsize64 "/dev/mapper/$vg-$name") / 4096))
  for i in $(seq 30); do
    at=$(((i * 7919 + seed * 31) % (blocks - 8)))
    dd if=/dev/urandom of="/dev/mapper/$vg-$name" bs=4096 seek="$at" count=$((1 + i % 7)) conv=notrunc,fsync status=none
  done
done <<<"$manifest"

if [ "$action" = merge ]; then
  umount "/dev/mapper/$vg-$lv" 2>/dev/null || :
  merged=$(hash "$lv")
  lvconvert -qq --merge -b --config 'activation { polling_interval = 600 }' "$vg/$lv"
  wait_for 60 merging
  dmsetup status "$vg-origin"
  echo "merging $lv $merged"
fi
for name in $(lvs --noheadings -o lv_name "$vg"); do
  [ -e "/dev/mapper/$vg-$name" ] || fail "no device of $name"
  echo "now $name $(hash "$name")"
done
sync
pkill lvmpolld 2>/dev/null || :; pkill lvconvert 2>/dev/null || :
vgchange -qq -an "$vg"
echo done
