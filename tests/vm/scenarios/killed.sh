# The feeder is killed: the kernel kicks once more at its death, then nobody does.
#: only x86_64
#: line ^armed .*timeout=6
#: mark killed
#: reset 5..8 after killed
feeder 6
sleep 7
kill -9 "$FEEDER"
say killed
sleep 60
fail "no reset"
