# The warning before the reset: imx2_wdt has one, i6300esb says that it has none.
#: line ^armed
#: line ^pretimeout (before=Some\(0\) set=2 after=Some\(2\)|unsupported)
#: line ^disarmed
if ! dog feed "$DEVICE" 8 3 2; then
    fail "feed"
fi
