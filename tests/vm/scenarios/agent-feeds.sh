# The agent leads on a real device: feeds it, hands it over to its next life, disarms it in an orderly stop. When it is stopped itself (SIGSTOP)
# the device ends the box before another member could lead. Without feeding, each of the pauses would end in a reset.
#: needs agent store
#: within 420
#: line the watchdog is armed: it resets this box 7.000s after the last kick$
#: mark leads
#: line ^device .*state=Some\(Active\) timeout=Some\(7\)
#: mark fed 60.. after leads
#: mark killed
#: line the watchdog is armed: it resets this box 7.000s after the last kick$
#: mark taken_over 16.. after killed
#: line the watchdog is disarmed
#: line ^device .*state=Some\(Inactive\)
#: mark ended
#: mark quiet 12.. after ended
#: line the watchdog is armed
#: mark leads_again
#: mark stopped
#: reset 4..7.6 after stopped in the lease
agent_config required
start_agent
wait_for 240 leads || fail "no primary"
say leads
dog info "$DEVICE"
sql "create table t (i int)" >/dev/null || fail "cannot write"
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
    sleep 5
    sql "insert into t values ($i)" >/dev/null || fail "cannot write"
done
leads || fail "does not lead after a minute"
say fed
before=$(postmaster)
kill -9 "$AGENT"
say killed
sleep 2
start_agent
sleep 18
leads || fail "does not lead after its restart"
[ "$(postmaster)" = "$before" ] || fail "another postmaster"
[ "$(sql "select count(*) from t")" = 12 ] || fail "rows are missing"
say taken_over "postmaster $before"
stop_agent || fail "the orderly stop ended with code $?"
dog info "$DEVICE"
say ended
sleep 12
say quiet
start_agent
wait_for 60 leads || fail "does not lead again"
say leads_again
sleep 6
kill -STOP "$AGENT"
say stopped
sleep 60
fail "no reset"
