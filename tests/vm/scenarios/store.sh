# The guest reaches the store of its host.
#: needs store
#: line "health":"true"
for _ in 1 2 3 4 5 6 7 8 9 10; do
    if wget -q -O - "http://host:$HOST_PORT/health"; then
        echo
        return 0
    fi
    sleep 1
done
ip addr
fail "no answer from the store"
