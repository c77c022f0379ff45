#!/bin/bash
# In the virtual machine: ext4 on an attached volume under fio with verification, while the daemon is replaced by its next process
# (SIGUSR2) twice, and then stopped and started.
#   restart.sh VG/LV     with the volume group on /dev/vda
# Each line of output that starts with "ok " is a check that held; "pause" lines are figures; the last line is "done".
set -eu
name=$1
fail() { echo "FAILED: $*"; tail -n 40 /run/orion-lvmd.*.log /run/fio.log 2>/dev/null; dmesg | tail -n 30; exit 1; }
ok() { echo "ok $* ($SECONDS s)"; }
. "${BASH_SOURCE%/*}/wait.sh"
start_daemon() { # start_daemon LOG
  bin/orion-lvmd --devices /dev/vda --workers 1 >"$1" 2>&1 & daemon=$!
  wait_for 240 says "$1" 'ready: '
}
status() { curl -s --unix-socket /run/orion-lvm/control.sock http://localhost/v1/status; }
pid() { status | tr -d ' \n' | sed -n 's/.*"pid":\([0-9]*\),"startedAt".*/\1/p'; }
wrote() { # wrote COUNT: that many writes have ended
  local stat; read -ra stat </sys/block/nbd0/stat
  writes=${stat[4]}; [ "$writes" -ge "$1" ]
}
goes_on() { # goes_on WHAT: writes are answered again, and nothing wrong was read
  wrote 0; wait_for 240 wrote $((writes + 60))
  kill -0 $fio || fail "$1: fio ended: it found a wrong byte, or could not go on"
}

modprobe nbd nbds_max=1
start_daemon /run/orion-lvmd.1.log
bin/orion-lvm attach "$name" --reconnect 600 | grep -q "attached to /dev/nbd0" || fail "attach"
mkfs.ext4 -q /dev/nbd0; mkdir -p /run/mnt; mount /dev/nbd0 /run/mnt
# Not all that it can: emulated, an I/O costs some 5 ms of processor time, and the next process needs that to start.
fio --name=load --directory=/run/mnt --size=12m --rw=randwrite --bs=4k --ioengine=libaio --direct=1 --iodepth=16 \
  --rate_iops=40 --verify=crc32c --verify_backlog=128 --verify_fatal=1 --fsync=64 --time_based=1 --runtime=3600 >/run/fio.log 2>&1 & fio=$!
goes_on "start"
ok "attached, mounted and written"
dmesg -C

for round in 1 2; do
  now=$(pid); [ -n "$now" ] || fail "no pid in $(status)"
  kill -USR2 "$now"
  # Asking its successor for its status again and again would take the emulated processor from it.
  wait_for 240 gone "$now"
  next=$(pid); [ -n "$next" ] && [ "$next" != "$now" ] || fail "no next process in $(status)"
  goes_on "hand-over $round"
  ok "hand-over $round"
done
grep -o '"pauseMs":[0-9]*' /run/orion-lvmd.1.log | sed 's/.*:/pause /'
if dmesg | grep -iE 'nbd|I/O error|EXT4-fs|Aborting'; then fail "the kernel noticed a hand-over"; fi
ok "two hand-overs: the kernel has said nothing, its connection is the first one"

now=$(pid); kill -TERM "$now"; wait_for 60 gone "$now"
start_daemon /run/orion-lvmd.2.log
goes_on "stop and start"
if dmesg | grep -iE 'I/O error|EXT4-fs (error|warning)|Aborting journal'; then fail "the kernel saw errors"; fi
ok "a stop and a start: the connection is a new one, and nobody saw an error"

kill -INT $fio; wait $fio || :
grep -q 'err= 0' /run/fio.log && ! grep -q 'verify:' /run/fio.log || fail "fio found wrong bytes"
umount /run/mnt
fsck.ext4 -fn /dev/nbd0 >/dev/null 2>&1 || fail "fsck"
bin/orion-lvm detach "$name" | grep -q "detached from /dev/nbd0" || fail "detach"
ok "no wrong byte, and the file system is clean"
kill -TERM "$daemon"; wait "$daemon" || fail "the daemon exited with $?"
echo done
