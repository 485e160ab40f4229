# nowayout: the device cannot be disarmed. The agent says so, feeds it as a leader and as a standby, hands it over to its next life, and after an
# orderly stop without a next life it resets the box.
#: needs agent store
#: kernel vm.nowayout=1 {driver}.nowayout=1
#: within 420
#: line the watchdog is armed: it resets this box 7.000s after the last kick; it cannot be disarmed
#: mark leads
#: mark fed 16.. after leads
#: line the watchdog stays armed: without an agent that feeds it this box is reset in 7.000s
#: mark ended
#: line the watchdog is armed: .*; it cannot be disarmed
#: mark standby
#: mark fed_on_standby 20.. after standby
#: line the watchdog stays armed
#: mark ended_again
#: reset 4..7.6 after ended_again
is_standby() {
    wget -q -O /dev/null http://127.0.0.1:8008/liveness && [ "$(sql "select pg_is_in_recovery()" 2>/dev/null)" = t ]
}
agent_config automatic
start_agent
wait_for 240 leads || fail "no primary"
say leads
sleep 16
say fed
stop_agent
say ended
# Another member has the key from now on, and answers nobody.
put members/other '{"conn_url":"postgres://127.0.0.1:9/postgres","api_url":"http://127.0.0.1:9/patroni","state":"running","role":"primary","timeline":1,"xlog_location":1}'
put leader other
start_agent
wait_for 60 is_standby || fail "no standby"
say standby
sleep 20
is_standby || fail "no standby any more"
say fed_on_standby
stop_agent
say ended_again
sleep 60
fail "no reset"
