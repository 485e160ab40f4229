# A feeder keeps the machine up; its successor takes the device over; a stopped one does not: no close, no last kick.
#: only x86_64
#: line ^device name=watchdog0 .*state=Some\(Inactive\)
#: line ^armed .*timeout=6 .*any_close=false
#: mark fed
#: line ^error .*in use by dog \(pid \d+\)
#: mark killed
#: line ^armed .*timeout=6
#: mark taken_over
#: mark stopped
#: reset 3..7 after stopped
dog info "$DEVICE"
feeder 6
sleep 15
say fed
dog arm-and-hang "${DEVICE}0" 6
kill -9 "$FEEDER"
say killed
sleep 3
feeder 6
sleep 8
say taken_over
kill -STOP "$FEEDER"
say stopped
sleep 60
fail "no reset"
