#!/bin/bash
# In the virtual machine: ext4 on an attached volume under fio with verification, while its worker and then the whole daemon are
# killed and started again. /dev/vda: vg0 with 48 MiB of data, and room for 16 more.
# Each line of output that starts with "ok " is a check that held; the last line is "done".
set -eu
starts=0
fail() { echo "FAILED: $*"; tail -n 40 /run/orion-lvmd.*.log /run/fio.log 2>/dev/null; dmesg | tail -n 30; exit 1; }
ok() { echo "ok $*"; }
. "${BASH_SOURCE%/*}/wait.sh"
start_daemon() {
  log=/run/orion-lvmd.$((starts += 1)).log
  bin/orion-lvmd --devices /dev/vda --workers 1 >"$log" 2>&1 & daemon=$!
  wait_for 240 says "$log" 'ready: '
}
status() { curl -s --unix-socket /run/orion-lvm/control.sock http://localhost/v1/status; }
worker() { status | tr -d ' \n' | sed -n 's/.*"workers":\[{"index":0,"pid":\([0-9]*\).*/\1/p'; }
wrote() { # wrote COUNT: that many writes have ended
  local stat; read -ra stat </sys/block/nbd0/stat
  writes=${stat[4]}; [ "$writes" -ge "$1" ]
}
goes_on() { # goes_on WHAT: writes are answered again, and nothing wrong was read
  wrote 0; wait_for 240 wrote $((writes + 100))
  kill -0 $fio || fail "$1: fio ended: it found a wrong byte, or could not go on"
}
no_errors() { if dmesg | grep -iE 'I/O error|EXT4-fs (error|warning)|Aborting journal'; then fail "$1: the kernel saw errors"; fi; }
clients() { status | tr -d ' \n' | grep -q "\"clients\":$1[,}]"; }

start_daemon
bin/orion-lvm attach vg0/data --reconnect 600 | grep -q "attached to /dev/nbd0" || fail "attach"
mkfs.ext4 -q /dev/nbd0; mkdir -p /run/mnt; mount /dev/nbd0 /run/mnt
head -c 4000000 /dev/urandom >/run/mnt/still; sync; sha256sum </run/mnt/still >/run/still.sum
# What it does while nothing is waited for; commands and daemons that start come first.
nice -n 19 fio --name=load --directory=/run/mnt --size=16m --rw=randwrite --bs=4k --ioengine=libaio --direct=1 --iodepth=16 \
  --verify=crc32c --verify_backlog=128 --verify_fatal=1 --fsync=64 --time_based=1 --runtime=3600 >/run/fio.log 2>&1 & fio=$!
goes_on "start"

for round in 1 2; do
  pid=$(worker); [ -n "$pid" ] || fail "no worker in $(status)"
  kill -KILL "$pid"
  wait_for 240 gone "$pid"
  goes_on "killed worker"
  [ "$(worker)" != "$pid" ] || fail "it is the same worker"
done
no_errors "killed worker"
ok "a killed worker is not noticed"

kill -KILL $daemon; wait $daemon 2>/dev/null || :
start_daemon
goes_on "killed daemon"
no_errors "killed daemon"
ok "a killed daemon is not noticed"

kill -TERM $daemon; wait $daemon || fail "the daemon exited with $? on SIGTERM"
start_daemon
goes_on "restarted daemon"
no_errors "restarted daemon"
ok "a restarted daemon is not noticed"

bin/lvextend -L 64m vg0/data >/run/lvextend.log 2>&1 || fail "lvextend: $(cat /run/lvextend.log)"
[ "$(blockdev --getsize64 /dev/nbd0)" = $((64 << 20)) ] || fail "the kernel's size is $(blockdev --getsize64 /dev/nbd0)"
resize2fs /dev/nbd0 >/dev/null 2>&1 || fail "resize2fs"
bin/lvrename vg0/data vg0/renamed || fail "lvrename"
wait_for 20 says /run/orion-lvm/attached/nbd0 EXPORT=vg0/renamed
kill -KILL "$(worker)"
goes_on "killed worker of a renamed volume"
ok "it grows, and is found under its new name"

kill -INT $fio; wait $fio || :
grep -q 'err= 0' /run/fio.log && ! grep -q 'verify:' /run/fio.log || fail "fio found wrong bytes"
sha256sum </run/mnt/still | cmp - /run/still.sum || fail "a file changed"
umount /run/mnt
fsck.ext4 -fn /dev/nbd0 >/dev/null 2>&1 || fail "fsck"
bin/orion-lvm detach vg0/renamed | grep -q "detached from /dev/nbd0" || fail "detach"
no_errors "end"
ok "no wrong byte, and the file system is clean"

bin/orion-lvm attach vg0/renamed /dev/nbd1 --connections 3 --reconnect 0 >/dev/null || fail "attach again"
wait_for 10 clients 3
kill -KILL $daemon; wait $daemon 2>/dev/null || :
if dd if=/dev/nbd1 of=/dev/null bs=4k count=1 iflag=direct status=none 2>/dev/null; then fail "read without a daemon"; fi
start_daemon
wait_for 60 clients 3
dd if=/dev/nbd1 of=/dev/null bs=4k count=1 iflag=direct status=none || fail "read with the next daemon"
bin/orion-lvm detach /dev/nbd1 >/dev/null || fail "detach by the device's name"
ok "without patience requests fail, and the device comes back with the daemon"
kill -TERM $daemon; wait $daemon || fail "the daemon exited with $?"
echo done
