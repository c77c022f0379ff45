#!/bin/bash
# In the virtual machine: vsock through the kernel's loopback, and the kernel's nbd over TLS, which nbd-client's process does for it.
#   transports.sh VG/LV BYTES TLS     with the volume group on /dev/vda, and what `orion-lvm tls init` made for localhost and alice in TLS
# Each line of output that starts with "ok " is a check that held; the last line is "done".
set -eu
name=$1 bytes=$2 tls=$3 log=/run/orion-lvmd.log
fail() { echo "FAILED: $*"; cat "$log"; dmesg | tail -5; exit 1; }
ok() { echo "ok $* (${SECONDS} s)"; }
. "${BASH_SOURCE%/*}/wait.sh"
alice="$tls/alice"
with_tls="-cacertfile $alice/ca-cert.pem -certfile $alice/client-cert.pem -keyfile $alice/client-key.pem -tlshostname localhost"

modprobe vsock_loopback; modprobe nbd nbds_max=1
bin/orion-lvmd --devices /dev/vda --workers 1 --tls-certificates "$tls" --tls-verify-clients \
  --listen vsock:10809 --listen 'vsock:10811?tls=required' --listen tcp:127.0.0.1:10810 >"$log" 2>&1 & daemon=$!
wait_for 240 says "$log" 'ready: '
ok "listens"

head -c "$bytes" /dev/urandom >/run/data
[ "$(nbdinfo --size "nbd+vsock://1:10809/$name")" = "$bytes" ] || fail "the size over vsock"
nbdcopy --flush /run/data "nbd+vsock://1:10809/$name" || fail "writing over vsock"
nbdcopy "nbd+vsock://1:10809/$name" /run/copy && cmp /run/data /run/copy || fail "reading over vsock"
grep -q '"peer":"vsock:1:[0-9]*"' "$log" || fail "the log says nothing of clients over vsock"
ok "vsock: what was written is read"

! nbdinfo --size "nbd+vsock://1:10811/$name" >/dev/null 2>&1 || fail "plain text where TLS is required"
nbdcopy "nbds+vsock://1:10811/$name?tls-certificates=$alice&tls-verify-peer=false" /run/copy || fail "reading over vsock with TLS"
cmp /run/data /run/copy || fail "other bytes over vsock with TLS"
ok "vsock with TLS reads the same"

! nbd-client localhost 10810 /dev/nbd0 -N "$name" >/dev/null 2>&1 || fail "nbd-client without TLS where it is required"
nbd-client localhost 10810 /dev/nbd0 -N "$name" -b 4096 $with_tls >/dev/null || fail "nbd-client over TLS"
[ "$(blockdev --getsize64 /dev/nbd0)" = "$bytes" ] || fail "the size over TLS"
cmp /run/data /dev/nbd0 || fail "the kernel reads other bytes over TLS"
head -c "$bytes" /dev/urandom >/run/data
dd if=/run/data of=/dev/nbd0 bs=256k oflag=direct conv=fsync status=none || fail "writing over TLS"
blockdev --flushbufs /dev/nbd0
cmp /run/data /dev/nbd0 || fail "the kernel reads other bytes than it wrote over TLS"
nbdcopy "nbd+vsock://1:10809/$name" /run/copy && cmp /run/data /run/copy || fail "others read other bytes than the kernel wrote over TLS"
numbers=$(curl -s --unix-socket /run/orion-lvm/control.sock http://localhost/v1/numbers | tr -d " \n")
grep -q '"peer":"tcp:127.0.0.1:[0-9]*","identity":"CN=alice,' <<<"$numbers" || fail "the numbers do not say whose certificate it was: $numbers"
ok "the kernel reads and writes over TLS"

nbd-client -d /dev/nbd0 >/dev/null
wait_for 30 sh -c '! nbd-client -c /dev/nbd0'
kill -TERM "$daemon"; wait "$daemon" || fail "the daemon exited with $? on SIGTERM"
ok "ends"
echo done
