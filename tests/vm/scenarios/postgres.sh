# PostgreSQL runs in the guest, and stays up while the device is fed.
#: needs postgres
#: line ^armed
#: mark ready
#: line ^@ sum .* 1785$
feeder 10
start_postgres || fail "no PostgreSQL"
say ready
say sum "$(sql "select sum(i * i) from generate_series(1, 17) i")"
dog info "$DEVICE"
