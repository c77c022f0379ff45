# Sourced by the commands under test where a test asks what is active: `. with-daemon.sh DAEMON` starts an orion-lvmd on the test's
# devices as soon as there are some, and lets it look at them again before each command. The harness ends it with the test's
# process namespace.
# As in the kernel of a test, nothing is active that no command activated: auto_activation_volume_list is empty.
suite_daemon() {
	local root=${DM_DEV_DIR%/dev} home device
	home=$root/orion
	export ORION_LVM_CONTROL=$home/control.sock
	ORION_LVM_DEVICES=$(paste -sd, "$LVM_TEST_DEVICES")
	export ORION_LVM_DEVICES
	if [ ! -S "$ORION_LVM_CONTROL" ]; then
		for device in "$DM_DEV_DIR/mapper/$PREFIX"*; do
			[ -b "$device" ] && break
		done
		[ -b "$device" ] || return 0
		mkdir -p "$home"
		(
			flock 9
			[ ! -S "$ORION_LVM_CONTROL" ] || exit 0
			printf '%s\n' "devices = ['$DM_DEV_DIR/mapper/$PREFIX*']" "run_dir = '$home'" 'workers = 1' \
				'[activation]' 'auto_activation_volume_list = []' > "$home/lvm.toml"
			unset LVM_TEST_TAG ORION_LVM_DEVICES
			setsid "$1" --config "$home/lvm.toml" < /dev/null > "$home/log" 2>&1 9>&- &
			for _ in {1..200}; do
				[ ! -S "$ORION_LVM_CONTROL" ] || exit 0
				sleep 0.05
			done
			cat "$home/log" >&2
		) 9> "$home/lock"
		return 0
	fi
	perl -MIO::Socket::UNIX -e '
		my $socket = IO::Socket::UNIX->new(Peer => $ARGV[0]) or exit;
		print $socket "POST /v1/rescan HTTP/1.0\r\n\r\n";
		1 while <$socket>;' "$ORION_LVM_CONTROL"
}
[ -z "${DM_DEV_DIR-}" ] || [ ! -s "${LVM_TEST_DEVICES-/nonexistent}" ] || suite_daemon "$1"
