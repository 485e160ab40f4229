# An orderly end stops the device, also for a feeder that follows; a timeout beyond the device's maximum is stepped down.
#: line ^armed .*timeout=6
#: line ^disarmed .*how=Confirmed
#: mark first
#: line ^device .*state=Some\(Inactive\)
#: line ^armed
#: line ^disarmed .*how=Confirmed
#: mark quiet
dog feed "$DEVICE" 6 7 || fail "feed"
say first
sleep 12
dog info "$DEVICE"
dog feed "$DEVICE" 2100 1 || fail "feed with a long timeout"
sleep 3
say quiet
