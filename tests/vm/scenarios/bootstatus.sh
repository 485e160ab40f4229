# The device remembers that it caused the reset, and the agent says and counts it. (The emulation of imx2_wdt forgets its status register in the reset.)
#: only x86_64 aarch64
#: needs agent store
#: line ^armed .*boot=0x0
#: mark armed
#: reset 2..5 after armed
#: line ^device .*bootstatus=card reset
#: line ^armed .*boot=0x20
#: line the last start of this box was a reset by the watchdog
#: mark counted
counted() {
    wget -q -O - http://127.0.0.1:8008/metrics | grep '^mastiff_watchdog_resets_total.* 1$'
}
if reset_before; then
    dog info "$DEVICE"
    dog feed "$DEVICE" 6 1
    agent_config automatic
    start_agent
    wait_for 20 counted || fail "not counted"
    say counted
    return 0
fi
dog arm-and-hang "$DEVICE" 3 &
sleep 0.5
say armed
sleep 60
fail "no reset"
