# Waiting, for the scripts beside this one, which read it; they say what `fail` does.
# Starting a program takes an emulated processor some 20 ms, and whatever is waited for needs that time: what is asked again and
# again is best made of bash's own words, as `says` and `gone` are.
wait_for() { # wait_for SECONDS COMMAND...: until the command succeeds
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || fail "waiting for: $*"; read -rt "${pause:-0.2}" <> <(:) || :; done
}
says() { # says FILE TEXT [COUNT]: so many of its lines, by default one, have the text
  local lines line count=0
  mapfile -t lines <"$1"
  for line in "${lines[@]}"; do if [[ $line == *"$2"* ]]; then count=$((count + 1)); fi; done
  [ $count -ge "${3:-1}" ]
}
gone() { ! kill -0 "$1"; }
