"""One running emulator: what the guest says on its serial line and what the emulator says about its hardware, in one list."""
import json
import os
import queue
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass

# What a terminal would swallow: escape sequences and control characters.
CONTROL = re.compile(r"\x1b(\[[0-9;?=]*[A-Za-z]|[A-Za-z])|[\x00-\x08\x0b-\x1f]")


@dataclass(frozen=True)
class Event:
    """Something that happened, `at` seconds after power-on by this machine's clock."""

    at: float
    kind: str
    """`line` (of the serial console), `watchdog` (the device acted), `reset`, `exit`"""
    text: str


class Guest:
    """An emulated machine. Use as a context manager: it never outlives the block."""

    def __init__(self, machine, image, initrd, append):
        self.events = queue.Queue()
        self.dir = tempfile.mkdtemp(prefix="vm-", dir="/tmp")
        words = f"console={machine.console} quiet panic=-1 {machine.append} {append}"
        command = [*machine.qemu, "-m", str(machine.memory), "-kernel", image.kernel, "-initrd", initrd, "-append", words,
                   "-nographic", "-monitor", "none", "-serial", "stdio", "-qmp", f"unix:{self.dir}/qmp,server=on,wait=off", *machine.network]
        if image.dtb:
            command += ["-dtb", image.dtb]
        self.began = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        threading.Thread(target=self._serial, daemon=True).start()
        threading.Thread(target=self._hardware, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    def _put(self, kind, text=""):
        self.events.put(Event(time.monotonic() - self.began, kind, text))

    def _serial(self):
        for line in self.process.stdout:
            text = CONTROL.sub("", line.decode(errors="replace")).strip()
            if text:
                self._put("line", text)
        self._put("exit")

    def _hardware(self):
        """The emulator's own events: they tell a reset by the watchdog from any other."""
        try:
            connection = self._connect()
            stream = connection.makefile("rw")
            stream.readline()
            stream.write('{"execute": "qmp_capabilities"}\n')
            stream.flush()
            for line in stream:
                name = json.loads(line).get("event")
                if name in ("WATCHDOG", "RESET"):
                    self._put(name.lower())
        except (OSError, ValueError):
            pass  # the emulator has ended, or never began: the serial line says so

    def _connect(self):
        path = os.path.join(self.dir, "qmp")
        for _ in range(200):
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(path)
                return connection
            except OSError:
                connection.close()
                time.sleep(0.05)
        raise OSError("no QMP socket")

    def next(self, deadline):
        """The next event, None at the deadline (seconds after power-on)."""
        try:
            return self.events.get(timeout=max(0.0, deadline - (time.monotonic() - self.began)))
        except queue.Empty:
            return None
