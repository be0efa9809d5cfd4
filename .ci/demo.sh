#!/usr/bin/env bash
# Runs `make demo` as a person would, but for the browser: waits for the address it prints, asks the
# server for the training run, moves its threshold, and ends the demo by Ctrl-C.
set -euo pipefail
set -m # a process group of its own for the demo, so that Ctrl-C reaches all of it

work=$(mktemp -d)
export GRADHELM_HOME=$work/home
demo=
trap 'if [ -n "$demo" ]; then kill -KILL -- "-$demo" 2>/dev/null || true; fi; rm -rf "$work"' EXIT

fail() {
    echo "demo: $*" >&2
    sed 's/^/    /' "$work/log" >&2
    exit 1
}

make install # so that the time below is the demo's own
port=$(.venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
began=$EPOCHREALTIME
passed() { awk "BEGIN { printf \"%.1f s\", $EPOCHREALTIME - $began }"; }

make demo ARGS="--port $port --no-browser" >"$work/log" 2>&1 </dev/null &
demo=$!
for _ in $(seq 300); do
    if grep -q "http://127.0.0.1:$port/login#" "$work/log"; then break; fi
    kill -0 "$demo" 2>/dev/null || fail "ended before it printed its address"
    sleep 0.1
done
grep -q "http://127.0.0.1:$port/login#" "$work/log" || fail "no address within 30 s"
echo "demo: address printed after $(passed)"

export GRADHELM_SERVER=http://127.0.0.1:$port
newest='import json, sys; runs = json.load(sys.stdin)["runs"]; print(runs[0]["last_step"] if runs and runs[0]["last_step"] is not None else -1)'
step=-1
for _ in $(seq 150); do
    step=$(.venv/bin/gradhelm runs --json | .venv/bin/python -c "$newest") || fail "the server did not answer"
    if [ "$step" -ge 0 ]; then break; fi
    sleep 0.2
done
[ "$step" -ge 0 ] || fail "no step arrived within 30 s of the address"
echo "demo: step $step on the server after $(passed)"

run=$(.venv/bin/gradhelm runs --json | .venv/bin/python -c 'import json, sys; print(json.load(sys.stdin)["runs"][0]["id"])')
.venv/bin/gradhelm set "$run" max_norm=0.25 --reason "the demo's own advice" --wait --timeout 15 ||
    fail "the threshold was not applied"

kill -INT -- "-$demo"
for _ in $(seq 150); do
    kill -0 "$demo" 2>/dev/null || break
    sleep 0.1
done
if kill -0 "$demo" 2>/dev/null; then fail "still there 15 s after Ctrl-C"; fi
if grep -n Traceback "$work/log"; then fail "a traceback in its output"; fi
wait "$demo" || true
demo=
echo "demo: ended by Ctrl-C"
