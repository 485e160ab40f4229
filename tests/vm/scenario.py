"""A scenario: a shell script for the guest whose `#:` lines say what must be seen from outside, in this order.

    #: mark NAME                 the guest says `@ NAME`
    #: mark NAME MIN.. after OTHER   at least so many seconds after that mark
    #: line REGEX                the guest prints such a line
    #: reset MIN..MAX after NAME the watchdog device resets the machine so many seconds after that mark; nothing else may
    #: reset MIN..MAX after NAME in the lease    and before the lease ends that the leader key has in the store
    #: within SECONDS            the whole scenario may take so long (default 180)
    #: needs store               a store listens at host:$HOST_PORT; `needs agent`: the agent and PostgreSQL are in the guest
    #: only MACHINE...           not on the others
    #: kernel WORDS              more words for the kernel's command line

A reset that is not expected at that place, `@ failed`, or an expected line that does not come fail the scenario. The
guest says `@ end` when its script has ended, which is expected after all others; a scenario whose last expectation is a
reset is over with it.
"""
import os
import re


class VmError(Exception):
    """Why a scenario does not hold."""


class BrokenPromise(VmError):
    """A machine that lived longer than its lease: what no second try excuses."""


class Scenario:
    """A parsed script."""

    def __init__(self, path):
        self.path = path
        self.name = os.path.splitext(os.path.basename(path))[0]
        self.expected, self.needs, self.kernel, self.within = [], set(), "", 180.0
        self.only = []
        with open(path) as file:
            for number, line in enumerate(file, 1):
                if line.startswith("#:"):
                    self._expectation(line[2:].strip(), f"{path}:{number}")
        if not self.expected or self.expected[-1][0] != "reset":
            self.expected.append(("mark", "end", 0.0, None))

    def _expectation(self, text, place):
        word, _, rest = text.partition(" ")
        if word == "reset":
            match = re.fullmatch(r"([\d.]+)\.\.([\d.]+) after (\S+)( in the lease)?", rest)
            if not match:
                raise SystemExit(f"{place}: reset MIN..MAX after NAME [in the lease]")
            self.expected.append(("reset", float(match.group(1)), float(match.group(2)), match.group(3), bool(match.group(4))))
        elif word == "mark":
            match = re.fullmatch(r"(\S+)(?: ([\d.]+)\.\. after (\S+))?", rest)
            if not match:
                raise SystemExit(f"{place}: mark NAME [MIN.. after OTHER]")
            self.expected.append(("mark", match.group(1), float(match.group(2) or 0), match.group(3)))
        elif word == "line":
            self.expected.append((word, rest))
        elif word == "within":
            self.within = float(rest)
        elif word == "needs":
            self.needs.update(rest.split())
        elif word == "only":
            self.only = rest.split()
        elif word == "kernel":
            self.kernel += f" {rest}"
        else:
            raise SystemExit(f"{place}: unknown word {word}")

    def runs_on(self, machine):
        """Whether it is meant for this machine."""
        return not self.only or machine.name in self.only


class Check:
    """Compares what happens with what is expected, event by event."""

    def __init__(self, case, lease_end=lambda: None):
        self.case = case
        self.lease_end = lease_end
        """When the leader's lease ends in the store, seconds after power-on; None: there is none."""
        self.left = list(case.expected)
        self.marks = {}
        self.notes = []

    def done(self):
        """Whether everything has been seen."""
        return not self.left

    def see(self, event):
        """One event; raises VmError when it may not be."""
        if event.kind == "line":
            self._line(event)
        elif event.kind in ("watchdog", "reset"):
            self._reset(event)
        elif event.kind == "exit":
            raise VmError("the emulator ended")

    def _line(self, event):
        if event.text.startswith("@ "):
            name = event.text.split()[1]
            if name == "failed":
                raise VmError(event.text)
            self.marks[name] = event.at
        if not self.left:
            return
        what, *rest = self.left[0]
        if what == "mark" and event.text.startswith(f"@ {rest[0]} "):
            self.left.pop(0)
            self._mark(event, *rest)
        elif what == "line" and re.search(rest[0], event.text):
            self.left.pop(0)
        elif event.text.startswith("@ end"):
            raise VmError(f"the script ended, but this was not seen: {self.wanted()}")

    def _mark(self, event, name, least, other):
        """Whether it came late enough."""
        if other is None:
            return
        took = event.at - self.marks[other]
        self.notes.append(f"{name} {took:.1f} s after {other}")
        if took < least:
            raise VmError(f"{name} came {took:.1f} s after {other}, wanted at least {least:g} s")

    def _reset(self, event):
        """A watchdog's action is an event of its own, and the reset of the machine follows it."""
        if event.kind == "reset":
            if event.at - self.marks.get("(watchdog)", -10) > 2 and "boot" in self.marks:
                raise VmError(f"the machine was reset at {event.at:.1f} s, and not by the watchdog")
            return
        self.marks["(watchdog)"] = event.at
        if not self.left or self.left[0][0] != "reset":
            raise VmError(f"the watchdog reset the machine at {event.at:.1f} s, before: {self.wanted()}")
        _, least, most, mark, in_lease = self.left.pop(0)
        took = event.at - self.marks[mark]
        self.notes.append(f"reset {took:.1f} s after {mark}")
        if in_lease:
            self._in_lease(event)
        if not least <= took <= most:
            raise VmError(f"the reset came {took:.1f} s after {mark}, wanted {least:g} to {most:g} s")

    def _in_lease(self, event):
        """The store's own answer counts: another member can have the key from then on."""
        end = self.lease_end()
        if end is None:
            raise VmError("the store never had a leader's lease")
        self.notes.append(f"{end - event.at:.1f} s before the lease ended")
        if event.at >= end:
            raise BrokenPromise(f"the reset came {event.at - end:.1f} s after the lease had ended in the store")

    def wanted(self):
        """The next expectation in words."""
        if not self.left:
            return "the end"
        what, *rest = self.left[0]
        return f"reset {rest[0]:g}..{rest[1]:g} after {rest[2]}" if what == "reset" else f"{what} {rest[0]}"
