#!/bin/bash
# In the virtual machine: a linear LV by the kernel's device-mapper, and the same LV by our daemon through the kernel's nbd client.
#     truncate -s 160M /dev/shm/disk; ../shared/vm/vm-run --disk /dev/shm/disk bench/kernel-linear.sh
# Prints for each load I/O per second and microseconds of the whole machine's CPU per I/O. The machine is emulated, which makes code
# that is compiled as it runs several times dearer than the kernel's: only the order of magnitude says anything.
set -eu
socket=/run/orion-bench.sock
busy() { awk '/^cpu /{print ($2+$3+$4+$7+$8)*10000}' /proc/stat; }
measure() { # measure NAME DEVICE
  local load depth before words
  for load in randread randwrite; do
    for depth in 1 32; do
      words="--filename=$2 --ioengine=libaio --direct=1 --rw=$load --bs=4k --iodepth=$depth --time_based --size=96m"
      fio --name=warm $words --runtime=2 >/dev/null
      before=$(busy)
      fio --name=load $words --runtime=3 --output-format=json >/run/fio.json
      awk -F'[:,]' -v cpu=$(($(busy) - before)) -v name="$1 $load depth $depth" '/"iops" :/&&$2>0{i=$2} /"total_ios" :/&&$2>0{n=$2}
        END{printf "%s: %d I/O per second, %d us of CPU\n", name, i, cpu/n}' /run/fio.json
    done
  done
}
umount /tmp 2>/dev/null || :
modprobe dm-mod; modprobe nbd nbds_max=1
vgcreate -qq -s 4m vg /dev/vda; lvcreate -qq -y -Wn -Zn -L96m -n linear vg; dmsetup mknodes
dd if=/dev/urandom of=/dev/mapper/vg-linear bs=1M count=96 oflag=direct status=none
measure 'dm-linear' /dev/mapper/vg-linear
vgchange -qq -an vg
bin/orion-lvmd --devices /dev/vda --listen "unix:$socket" --workers 0 >/run/orion.log 2>&1 & daemon=$!
until nbd-client -unix "$socket" -l >/dev/null 2>&1; do kill -0 $daemon || { cat /run/orion.log; exit 1; }; sleep 0.2; done
nbd-client -unix "$socket" -N vg/linear /dev/nbd0 -b 4096 >/dev/null
measure 'our daemon and nbd' /dev/nbd0
nbd-client -d /dev/nbd0 >/dev/null; kill $daemon; wait $daemon || :
