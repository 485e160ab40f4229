"""The emulated machines: three architectures, two real watchdog drivers of the kernel."""
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Machine:
    """What differs between them."""

    name: str
    target: str
    """Rust's name of the architecture, static."""
    debian: str
    """Debian's name of the architecture."""
    kernel_package: str
    qemu: tuple
    """The emulator and its machine."""
    console: str
    driver: str
    """The watchdog driver, also the name of its kernel parameters."""
    modules: tuple
    """Loaded at boot in this order (what the kernel has built in is skipped). The watchdog driver is loaded last, by name."""
    network: tuple
    dtb: str = ""
    append: str = ""
    memory: int = field(default=512)


PCI_NETWORK = ("-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=")
I6300ESB = ("-device", "i6300esb", "-action", "watchdog=reset")

MACHINES = [
    Machine("x86_64", "x86_64-unknown-linux-musl", "amd64", "linux-image-amd64", ("qemu-system-x86_64", "-M", "pc", *I6300ESB), "ttyS0",
            "i6300esb", ("virtio_pci", "virtio_net", "softdog", "i6300esb"), PCI_NETWORK, append="mitigations=off"),
    Machine("aarch64", "aarch64-unknown-linux-musl", "arm64", "linux-image-arm64",
            ("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", *I6300ESB), "ttyAMA0",
            "i6300esb", ("virtio_pci", "virtio_net", "softdog", "i6300esb"), PCI_NETWORK),
    Machine("armv7", "armv7-unknown-linux-musleabihf", "armhf", "linux-image-armmp", ("qemu-system-arm", "-M", "mcimx6ul-evk"), "ttymxc0,115200",
            "imx2_wdt", ("fec", "softdog", "imx2_wdt"), ("-nic", "user"), dtb="imx6ul-14x14-evk.dtb"),
]
