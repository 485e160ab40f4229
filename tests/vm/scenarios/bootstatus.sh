# The device remembers that it caused the reset. (The emulation of imx2_wdt forgets its status register in the reset.)
#: only x86_64 aarch64
#: line ^armed .*boot=0x0
#: mark armed
#: reset 2..5 after armed
#: line ^device .*bootstatus=card reset
#: line ^armed .*boot=0x20
#: mark back
if reset_before; then
    dog info "$DEVICE"
    dog feed "$DEVICE" 6 0 &
    sleep 2
    say back
    return 0
fi
dog arm-and-hang "$DEVICE" 3 &
sleep 0.5
say armed
sleep 60
fail "no reset"
