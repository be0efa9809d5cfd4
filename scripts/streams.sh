#!/bin/sh
# Runs the tests in two streams beside each other, and prints what both say line by line:
#
#   scripts/streams.sh PYTEST [WORDS]
#
# One after the other they take more than an hour, most of it waiting for clocks, sockets and pages.
# All that drive a browser are in one stream: two browsers would take the processor from each other.
set -u

PAGES='tests/browser tests/security'
status=$(mktemp -d) || exit 1
trap 'rm -rf "$status"' EXIT
# Ctrl-C reaches both by itself; this waits until they have told what they were at.
trap : INT TERM

stream() {
    name=$1
    shift
    # -u: a pipe would keep back what a person waits for.
    { "$python" -u "$@" 2>&1; echo $? >"$status/$name"; } | awk -v name="$name" '{ print name " | " $0; fflush() }'
}

pytest=$1
python=$(dirname "$pytest")/python
shift
others=tests
for folder in $PAGES; do others="$others --ignore=$folder"; done
# shellcheck disable=SC2086  # several words each
stream pages "$pytest" $PAGES "$@" &
# shellcheck disable=SC2086
stream others "$pytest" $others "$@" &
wait

# 5: no test of a selection is in this stream. That is in order as long as the other has some.
worst=5
for name in pages others; do
    code=$(cat "$status/$name" 2>/dev/null || echo 1)
    case $code in
    0) [ $worst -eq 5 ] && worst=0 ;;
    5) ;;
    *) worst=$code ;;
    esac
done
exit $worst
