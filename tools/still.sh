#!/bin/sh
# Runs a command, and says every half minute that it still does: a first compilation prints nothing for minutes.
#
#   still.sh COMMAND ARG…
(
	trap 'kill "$nap" 2>/dev/null; exit' TERM
	seconds=0
	while kill -0 $$ 2>/dev/null; do
		sleep 30 &
		nap=$!
		wait "$nap"
		seconds=$((seconds + 30))
		echo "… $seconds s: $1 $2" >&2
	done
) &
beat=$!
trap 'kill "$beat" 2>/dev/null' EXIT
trap 'exit 130' INT TERM # only then does a signal run the line above
"$@"
