# nowayout: a disarm is refused before anything is closed, the device is fed on, and the death of the feeder resets.
#: only x86_64
#: kernel vm.nowayout=1 {driver}.nowayout=1
#: line ^armed .*nowayout=Some\(true\)
#: line ^unstoppable .*nowayout is set
#: mark fed_on
#: mark killed
#: reset 5..8 after killed
dog feed "$DEVICE" 6 3 &
feeding=$!
sleep 14
say fed_on
kill -9 "$feeding"
say killed
sleep 60
fail "no reset"
