#!/bin/bash
# In the virtual machine: the units of packaging/ under a real systemd with its udev, which is the first process of a PID
# namespace here (the machine's own first process is the script's parent).
#   units.sh VG LV BYTES     with the volume group on /dev/vda
# Each line of output that starts with "ok " is a check that held; the last line is "done".
set -eu
vg=$1 lv=$2 bytes=$3 name=$1/$2 log=/run/orion-lvmd.log
fail() {
  echo "FAILED: $*"; systemctl status --no-pager -n0 'orion*' 2>&1 | head -60 || :
  tail -60 /run/systemd.log; tail -40 "$log"; dmesg | tail -5; exit 1
}
trap 'echo "FAILED in line $LINENO"; tail -30 /run/systemd.log' ERR
ok() { echo "ok $* ($SECONDS s)"; }
. "${BASH_SOURCE%/*}/wait.sh"
# Mostly systemd is asked: that is dear.
pause=1
has_size() { [ "$(blockdev --getsize64 /dev/nbd0)" = "$1" ]; }
property() { systemctl show -P "$1" orion-lvmd.service; }
is() { [ "$(property "$1")" = "$2" ]; }
links() { [ "$(readlink -f "$1")" = /dev/nbd0 ]; }
served() { inside nbdinfo --size "nbd+unix:///$1?socket=/run/orion-lvm/nbd.sock"; }
outside() { # outside PID: the number that a process in there has here
  local found; found=$(grep -slE "^NSpid:[[:space:]]+[0-9]+[[:space:]]+$1\$" /proc/[0-9]*/status) || [ -n "$found" ] || fail "no process $1 in there"
  found=${found#/proc/}; echo "${found%/status}"
}

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
StandardOutput=append:/run/orion-lvmd.log
StandardError=append:/run/orion-lvmd.log
END
mkdir -p "$units/orion-lvm-attach@.service.d"
printf '[Service]\nTimeoutStartSec=240\nTimeoutStopSec=240\n' >"$units/orion-lvm-attach@.service.d/test.conf"
printf 'devices = ["/dev/vda"]\ncontrol = "/run/orion-lvm/control.sock"\nworkers = 1\n[access]\noperators = ["user:12345"]\n[audit]\nfile = "/run/audit.log"\n' \
  >/etc/orion-lvm/lvm.toml
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
wait_for 200 says "$log" 'ready: '
wait_for 60 is ActiveState active
wait_for 60 is StatusText "1 logical volumes served"
restarts=$(property NRestarts)
[ "$(property WatchdogTimestampMonotonic)" -gt 0 ] || fail "no watchdog"
ok "a client starts the daemon in its sandbox, which says when it is ready"

# Whoever is not root has it done by the daemon. A command of its own would compile its code first, for each of them.
chmod 666 /run/orion-lvm/control.sock
order() { # order UID NAME ARGUMENTS: of the daemon's, and its end
  inside setpriv --reuid "$1" --regid "$1" --clear-groups curl -sN --unix-socket /run/orion-lvm/control.sock \
    http://localhost/v1/commands -d '{"name":"'"$2"'","argv":['"$3"'],"cwd":"/","env":{},"devices":null,
      "terminal":{"isTTY":false,"columns":80},"configFile":null,"configDevices":[]}' >/run/command.log
  grep -q '"type":"exit","code":0' /run/command.log || fail "$2 by user $1: $(cat /run/command.log)"
}
order 12345 attach "\"$name\",\"/dev/nbd0\",\"--reconnect\",\"600\""
links "/dev/$name" || fail "no /dev/$name"
grep -q '"uid":12345.*"argv":\["attach"' /run/audit.log || fail "the audit log: $(cat /run/audit.log)"
ok "an operator has it attached by the daemon, in its sandbox"

mkfs.ext4 -q /dev/nbd0; mkdir -p /run/mnt; mount /dev/nbd0 /run/mnt
bytes=$((bytes + 1048576))
order 0 lvextend "\"-L${bytes}b\",\"$name\""
has_size "$bytes" || fail "the sandboxed daemon could not set the size: $(cat /run/command.log)"
order 0 lvrename "\"$vg\",\"$lv\",\"other\""
if grep -q WARNING /run/command.log; then fail "a warning: $(cat /run/command.log)"; fi
wait_for 60 links "/dev/$vg/other"
[ ! -e "/dev/$name" ] || fail "the old link stays"
[ -s "/etc/lvm/backup/$vg" ] && compgen -G "/etc/lvm/archive/${vg}_*" >/dev/null || fail "no backup or no archive of the metadata"
name=$vg/other
ok "a mounted volume grows and is renamed by the sandboxed daemon"

round=0
works() { # works WHAT: the mounted volume takes bytes and gives them
  round=$((round + 1))
  head -c 300000 /dev/urandom >/run/bytes
  timeout 240 dd if=/run/bytes of=/run/mnt/$round bs=64k conv=fsync status=none || fail "$1: a write"
  # Past the cache: to drop that would drop what the next process is started from.
  timeout 240 dd if=/run/mnt/$round bs=64k iflag=direct status=none | cmp - /run/bytes || fail "$1: wrong bytes"
}
works "before everything"
dmesg -C
systemctl service-watchdogs yes
systemctl kill --kill-whom=main -s STOP orion-lvmd.service
wait_for 120 is NRestarts $((restarts + 1))
# Starting takes the emulated machine longer than the time between two signs of life.
systemctl service-watchdogs no
wait_for 200 says "$log" 'ready: ' 2
wait_for 60 is ActiveState active
works "after the restart"
if dmesg | grep -iE 'I/O error|EXT4-fs (error|warning)|Aborting journal'; then fail "the kernel saw errors"; fi
ok "a daemon that hangs is started again behind the same sockets, and the mounted volume goes on"

dmesg -C
before=$(property MainPID)
first_daemon=$(outside "$before")
systemctl kill --kill-whom=main -s USR2 orion-lvmd.service
works "while the next process starts"
wait_for 240 gone "$first_daemon"
handed_over() { local pid; pid=$(property MainPID); [ "$pid" != "$before" ] && [ "$pid" != 0 ]; }
wait_for 60 handed_over
works "after the hand-over"
is ActiveState active && is SubState running && is NRestarts $((restarts + 1)) || fail "systemd took the hand-over for an end"
if dmesg | grep -iE 'nbd|I/O error|EXT4-fs|Aborting'; then fail "the kernel noticed the hand-over"; fi
served "$name" >/dev/null || fail "systemd's socket after the hand-over"
systemctl reload orion-lvmd || fail "reload"
wait_for 60 says "$log" '"msg":"reloaded: '
pinged=$(property WatchdogTimestampMonotonic)
later() { [ "$(property WatchdogTimestampMonotonic)" -gt "$pinged" ]; }
wait_for 60 later
ok "the daemon is replaced: systemd knows the next process and hears that it is alive, the kernel's connection is the same"

umount /run/mnt
fsck.ext4 -fn /dev/nbd0 >/run/fsck.log 2>&1 || fail "fsck: $(cat /run/fsck.log)"
order 12345 detach '"/dev/nbd0"'
instance=orion-lvm-attach@$(systemd-escape "$name").service
systemctl start "$instance" || fail "attach"
has_size "$bytes" || fail "the size of /dev/nbd0"
links "/dev/$name" || fail "no /dev/$name: $(cat /run/orion-lvm/attached/nbd0; ls -l /dev/$vg 2>&1)"
systemctl stop "$instance" || fail "detach"
[ ! -e /sys/block/nbd0/pid ] || fail "still attached"
[ ! -e "/dev/$name" ] || fail "the link stays"
ok "the unit of a volume attaches it, udev gives it its name, and its end takes both away"

# systemd waits only for a main process that was its own child when it was told of it.
systemctl stop orion-lvmd.socket orion-lvmd-control.socket orion-lvmd.service || fail "stop"
is Result success || fail "it ended with $(property Result)"
says "$log" 'stopped: everything acknowledged is durable' || fail "it was not left the time to stop"
ok "a daemon that has followed another is left its time to stop"
echo done
