#!/bin/bash
# In the virtual machine: the units of packaging/ under a real systemd with its udev, which is the first process of a PID
# namespace here (the machine's own first process is the script's parent).
#   units.sh VG LV BYTES     with the volume group on /dev/vda
# Each line of output that starts with "ok " is a check that held; the last line is "done".
set -eu
vg=$1 lv=$2 bytes=$3 name=$1/$2
fail() {
  echo "FAILED: $*"; systemctl status --no-pager -n0 'orion*' 2>&1 | head -60 || :
  tail -60 /run/systemd.log; dmesg | tail -5; exit 1
}
trap 'echo "FAILED in line $LINENO"; tail -30 /run/systemd.log' ERR
ok() { echo "ok $*"; }
wait_for() { # wait_for SECONDS COMMAND...: until the command succeeds
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || fail "waiting for: $*"; read -rt 0.2 <> <(:) || :; done
}
has_size() { [ "$(blockdev --getsize64 /dev/nbd0)" = "$1" ]; }
property() { systemctl show -P "$1" orion-lvmd.service; }
is() { [ "$(property "$1")" = "$2" ]; }
links() { [ "$(readlink -f "$1")" = /dev/nbd0 ]; }
served() { inside nbdinfo --size "nbd+unix:///$1?socket=/run/orion-lvm/nbd.sock"; }
compiled() { bin/orion-lvm attach "$name" 2>&1 | grep -q "No orion-lvmd is running"; }

# The unit tries once; what it runs is compiled before, which takes the emulated machine its time.
wait_for 120 compiled
modprobe nbd nbds_max=4
units=/etc/systemd/system
mkdir -p "$units/orion-lvmd.service.d" /etc/orion-lvm /etc/udev/rules.d
for file in packaging/*.service packaging/*.socket; do sed "s,/opt/orion-lvm,$PWD,g" "$file" >"$units/${file##*/}"; done
cp packaging/61-orion-lvm.rules /etc/udev/rules.d/
# An emulated machine is slow, so that limits of time are wide, and the watchdog bites only when it is to.
cat >"$units/orion-lvmd.service.d/test.conf" <<END
[Service]
WatchdogSec=10
TimeoutAbortSec=2
TimeoutStartSec=200
Environment=NODE_COMPILE_CACHE=$PWD/node_modules/.cache/compile
END
mkdir -p "$units/orion-lvm-attach@.service.d"
printf '[Service]\nTimeoutStartSec=240\nTimeoutStopSec=240\n' >"$units/orion-lvm-attach@.service.d/test.conf"
printf 'devices = ["/dev/vda"]\ncontrol = "/run/orion-lvm/control.sock"\nworkers = 1\n' >/etc/orion-lvm/lvm.toml
systemd-tmpfiles --create "$PWD/packaging/orion-lvm.tmpfiles.conf" || fail "tmpfiles"
printf '[Unit]\nDefaultDependencies=no\nWants=systemd-udevd.service\n' >"$units/nothing.target"
mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup
unshare --pid --fork --mount --mount-proc env -i container=test PATH="$PATH" \
  /lib/systemd/systemd --system --unit=nothing.target --log-target=console >/run/systemd.log 2>&1 &
outer=$!
wait_for 20 pgrep -P $outer
first=$(pgrep -P $outer)
# Talks to it from inside: it does not answer processes that it can't see.
inside() { nsenter -t "$first" -p -m -- "$@"; }
systemctl() { inside /bin/systemctl "$@"; }
wait_for 60 systemctl is-active nothing.target
wait_for 60 systemctl is-active systemd-udevd.service

systemctl service-watchdogs no
systemctl start orion-lvmd.socket orion-lvmd-control.socket || fail "sockets"
is ActiveState inactive || fail "the daemon was started by nobody"
served "$name" >/run/size || fail "the first client"
grep -qx "$bytes" /run/size || fail "size $(cat /run/size)"
wait_for 200 is ActiveState active
wait_for 60 is StatusText "1 logical volumes served"
[ "$(property WatchdogTimestampMonotonic)" -gt 0 ] || fail "no watchdog"
ok "a client starts the daemon in its sandbox, which says when it is ready"

instance=orion-lvm-attach@$(systemd-escape "$name").service
systemctl start "$instance" || fail "attach"
has_size "$bytes" || fail "the size of /dev/nbd0"
links "/dev/$name" || fail "no /dev/$name: $(cat /run/orion-lvm/attached/nbd0; ls -l /dev/$vg 2>&1)"
ok "the unit of a volume attaches it, and udev gives it its name"
echo done
