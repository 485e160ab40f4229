# Words of the scenarios, read by every one of them.

# say NAME [TEXT...]: a line for the driver outside, `@ NAME up=SECONDS TEXT`.
say() {
    local name=$1
    shift
    echo "@ $name up=$(cut -d' ' -f1 /proc/uptime) $*"
}

# fail TEXT: ends the scenario.
fail() {
    say failed "$*"
    sleep 86400
}

# reset_before: whether the watchdog device says that it caused the last reset.
reset_before() {
    dog info "$DEVICE" | grep -q 'bootstatus=.*card reset'
}

# dog: the example program of the watchdog crate (`watchdog` is one of busybox).
# feeder TIMEOUT: feeds the device for ever in the background; its id is in FEEDER.
feeder() {
    dog feed "$DEVICE" "$1" 0 &
    FEEDER=$!
}

# as_postgres COMMAND...
as_postgres() {
    su postgres -s /bin/sh -c "$*"
}

# sql TEXT: the answer of the local PostgreSQL.
sql() {
    as_postgres "PATH=$PATH psql -h /tmp -P pager=off -XAtc \"$1\""
}

# agent_config MODE: the agent's configuration as /agent.yml, with this watchdog mode. TTL, LOOP_WAIT: 20 and 5 unless set before.
agent_config() {
    cat >/agent.yml <<YAML
scope: vm
namespace: /service/
name: guest
restapi: {listen: 127.0.0.1:8008, connect_address: 127.0.0.1:8008}
etcd3: {hosts: ["10.0.2.2:$HOST_PORT"]}
bootstrap:
  dcs: {ttl: ${TTL:-20}, loop_wait: ${LOOP_WAIT:-5}, retry_timeout: 5, postgresql: {parameters: {max_connections: 25}}}
  initdb: [{encoding: UTF8}, {locale: C}, {wal-segsize: 2}, no-sync]
postgresql:
  listen: 127.0.0.1:5432
  connect_address: 127.0.0.1:5432
  data_dir: /pg/data
  bin_dir: /usr/lib/postgresql/15/bin
  pgpass: /pg/pgpass
  pg_hba: ["local all all trust", "host all all 127.0.0.1/32 trust"]
  authentication:
    superuser: {username: postgres, password: superpw}
    replication: {username: replicator, password: replpw}
  parameters: {unix_socket_directories: /tmp, shared_buffers: 8MB, dynamic_shared_memory_type: mmap}
watchdog: {mode: $1, device: $DEVICE}
YAML
    # The root file system is half of the memory, and the programs fill most of it.
    [ -d /pg ] || { mkdir /pg && mount -t tmpfs pg /pg; }
    chown postgres:postgres /pg /agent.yml
    [ ! -e "$DEVICE" ] || chown postgres:postgres "$DEVICE"
    chmod 700 /pg
}

# start_agent: the agent in the background as postgres; its log goes to the console. Its id is in AGENT.
start_agent() {
    su postgres -s /bin/sh -c "PATH=$PATH exec mastiff /agent.yml" &
    AGENT=$!
}

# leads: the agent's answer to /primary is 200, and PostgreSQL takes writes.
leads() {
    wget -q -O /dev/null http://127.0.0.1:8008/primary && [ "$(sql "select pg_is_in_recovery()" 2>/dev/null)" = f ]
}

# stop_agent: an orderly stop, until the process is gone.
stop_agent() {
    kill -TERM "$AGENT"
    wait "$AGENT"
}

# guard: the id of the guard process.
guard() {
    grep -l '^mastiff-guard$' /proc/[0-9]*/comm 2>/dev/null | cut -d/ -f3
}

# postmaster: the id of the postmaster.
postmaster() {
    head -n 1 /pg/data/postmaster.pid
}

# put KEY VALUE: writes a key of the scope into the store.
put() {
    local key value
    key=$(printf '/service/vm/%s' "$1" | base64 -w 0)
    value=$(printf '%s' "$2" | base64 -w 0)
    wget -q -O /dev/null --post-data "{\"key\":\"$key\",\"value\":\"$value\"}" "http://host:$HOST_PORT/v3/kv/put"
}

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
    local left=$1
    shift
    while [ "$left" -gt 0 ]; do
        "$@" && return 0
        sleep 1
        left=$((left - 1))
    done
    return 1
}
