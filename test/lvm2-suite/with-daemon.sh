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
			# Waits for what the daemon tells a service manager when it is ready, or for its end.
			perl -MSocket -e '
				my ($notify, $log, @daemon) = @ARGV;
				socket(my $socket, AF_UNIX, SOCK_DGRAM, 0) or die "socket: $!";
				bind($socket, sockaddr_un($notify)) or die "$notify: $!";
				$SIG{CHLD} = sub { exit 1 };
				if (!fork) {
					$ENV{NOTIFY_SOCKET} = $notify;
					open(STDIN, "<", "/dev/null"); open(STDOUT, ">", $log); open(STDERR, ">&", STDOUT);
					exec "setsid", @daemon;
				}
				alarm 10;
				do { recv($socket, $_, 4096, 0) } until /READY=1/;' \
				"$home/notify.sock" "$home/log" "$1" --config "$home/lvm.toml" 9>&- && exit 0
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
