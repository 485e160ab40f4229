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

# start_postgres: a fresh cluster in /pg, listening on 5432.
start_postgres() {
    mkdir -p /pg
    chown postgres:postgres /pg
    chmod 700 /pg
    as_postgres "PATH=$PATH initdb -D /pg --no-locale --no-sync -A trust >/tmp/initdb.log 2>&1" || { cat /tmp/initdb.log; return 1; }
    printf '%s\n' "shared_buffers = 8MB" "unix_socket_directories = '/tmp'" "max_connections = 20" >>/pg/postgresql.conf
    as_postgres "PATH=$PATH pg_ctl -D /pg -w -t 60 -l /tmp/pg.log start >/dev/null" || { cat /tmp/pg.log; return 1; }
}

# sql TEXT: the answer of the local PostgreSQL.
sql() {
    as_postgres "PATH=$PATH psql -h /tmp -XAtc \"$1\""
}
