# The agent's static binary bootstraps and leads a PostgreSQL on this architecture, with the store on the host.
#: needs agent store
#: mark leads
#: line ^guest\|.*\|[1-9]
agent_config off
start_agent
wait_for_primary 120 || fail "no primary"
say leads
sql "create table t as select i from generate_series(1, 100) i" >/dev/null || fail "cannot write"
sql "select 'guest', current_setting('server_version'), count(*) from t"
