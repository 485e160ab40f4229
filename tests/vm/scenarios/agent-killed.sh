# `watchdog: required` does not lead without a working device; with one it does, and when agent and guard are killed the device ends the box.
# The kernel feeds the device once more when its owner dies: the time is the device's, from the kill.
#: needs agent store
#: within 420
#: line the watchdog cannot be used: /dev/nothing
#: mark refused
#: line the watchdog is armed: it resets this box 7.000s after the last kick$
#: mark leads
#: mark killed
#: reset 5..7.6 after killed in the lease
real=$DEVICE
DEVICE=/dev/nothing agent_config required
start_agent
sleep 20
[ ! -e /pg/data/PG_VERSION ] || fail "it began a cluster without a watchdog"
say refused
stop_agent
DEVICE=$real agent_config required
start_agent
wait_for 240 leads || fail "no primary"
say leads
sleep 8
guard=$(guard)
[ -n "$guard" ] || fail "no guard"
kill -9 "$AGENT" "$guard"
say killed "agent $AGENT, guard $guard"
[ "$(sql "select pg_is_in_recovery()")" = f ] || fail "PostgreSQL is down already: this shows nothing"
sleep 60
fail "no reset"
