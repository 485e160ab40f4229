"""Runs the scenarios in emulated machines: `vm.py [--only MACHINE] [-k PATTERN] [-j N] [-v]`. See --help.

The closing line is `N passed, N failed`.
"""
import argparse
import concurrent.futures
import glob
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time

import guest
import image
import scenario
import store
from machines import MACHINES

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
CACHE = os.path.join(ROOT, ".cache", "vm")
PRINTING = threading.Lock()


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests/vm/run", description="agents and real watchdog drivers in emulated machines")
    parser.add_argument("--only", choices=[machine.name for machine in MACHINES], action="append", help="only this machine")
    parser.add_argument("-k", default="", help="only scenarios whose name matches this regular expression")
    parser.add_argument("-j", type=int, default=3, help="how many guests at a time: they mostly wait")
    parser.add_argument("--again", type=int, default=0, metavar="N", help="up to N failed scenarios get a second try, alone; never one that broke a promise")
    parser.add_argument("-v", action="store_true", help="print what every guest says")
    parser.add_argument("--no-build", action="store_true", help="take the binaries in .cache/bin/vm as they are")
    return parser.parse_args()


def say(text):
    """A line, whole."""
    with PRINTING:
        print(text, flush=True)


def build(machine, agent):
    """The static programs of a machine, built anew."""
    began = time.monotonic()
    what = ["--vm", "--watchdog"] + (["--agent"] if agent else [])
    done = subprocess.run([os.path.join(ROOT, "cross", "build"), machine.target, *what], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"cross/build {machine.target} failed:\n{done.stderr}")
    say(f"{machine.name}: built in {time.monotonic() - began:.0f} s")


def prepare(machine):
    """Fetches and builds what a machine boots."""
    began = time.monotonic()
    made = image.Image(CACHE, machine)
    made.prepare()
    say(f"{machine.name}: kernel and initramfs ready in {time.monotonic() - began:.0f} s")
    return made


def files(machine, case):
    """What the guest's last layer holds: {name inside: file of this machine}."""
    binaries = os.path.join(ROOT, ".cache", "bin", "vm")
    found = {
        "guest/lib.sh": os.path.join(HERE, "guest/lib.sh"),
        f"guest/scenarios/{case.name}": case.path,
        "usr/bin/dog": os.path.join(binaries, f"watchdog-{machine.target}"),
    }
    if "agent" in case.needs:
        found["usr/bin/mastiff"] = os.path.join(binaries, f"mastiff-{machine.target}")
    return found


def run(machine, made, case, options):
    """One scenario on one machine; (machine, scenario, held, seconds, text, may be tried again)."""
    label = f"{machine.name}/{case.name}"
    initrd = tempfile.NamedTemporaryFile(prefix="vm-initrd-", dir=CACHE)
    made.initrd(initrd.name, files(machine, case), "agent" in case.needs)
    story = []
    append = f"vm.scenario={case.name} {case.kernel.format(driver=machine.driver)}"
    began = time.monotonic()
    excusable = True
    try:
        with initrd, store.needed("store" in case.needs) as etcd:
            append += f" vm.port={etcd.port if etcd else 0}"
            with guest.Guest(machine, made, initrd.name, append) as box:
                check = scenario.Check(case, lambda: etcd.lease.end - box.began if etcd and etcd.lease.end else None)
                watch(box, case, check, lambda event: tell(story, label, event, options.v))
        held, why = True, ", ".join(check.notes)
    except scenario.VmError as error:
        held, why, excusable = False, str(error), not isinstance(error, scenario.BrokenPromise)
    took = time.monotonic() - began
    say(f"{'ok     ' if held else 'FAILED '} {machine.name:8} {case.name:20} {took:6.1f}s  {why}")
    if not held and not options.v:
        say("\n".join(story[-60:]))
    return machine.name, case.name, held, took, why, excusable


def tell(story, label, event, aloud):
    """Remembers an event, and prints it where asked."""
    line = f"    {event.at:7.2f}  {label}  {event.text if event.kind == 'line' else '*** ' + event.kind}"
    story.append(line)
    if aloud:
        say(line)


def watch(box, case, check, tell_it):
    """Reads events until everything expected was seen."""
    while not check.done():
        event = box.next(case.within)
        if event is None:
            raise scenario.VmError(f"after {case.within:g} s this was not seen: {check.wanted()}")
        tell_it(event)
        check.see(event)


def again(results, runs, options):
    """A second try, alone, for what a busy machine may have failed: `runs` are the arguments of `run`, in the order of the results."""
    failed = [index for index, result in enumerate(results) if not result[2]]
    if len(failed) > options.again or not all(results[index][5] for index in failed):
        return
    for index in failed:
        say(f"again   {results[index][0]:8} {results[index][1]:20} a second try, alone")
        results[index] = run(*runs[index], options)


def table(results):
    """What was measured, one machine below the other."""
    print("\nmeasured (seconds, this machine's clock):")
    for machine, name, held, _, why, _ in sorted(results, key=lambda result: (result[1], result[0])):
        if held and why:
            print(f"  {name:16} {machine:8} {why}")


def main():
    """Builds, prepares, runs, prints the table."""
    options = arguments()
    machines = [machine for machine in MACHINES if not options.only or machine.name in options.only]
    cases = [scenario.Scenario(path) for path in sorted(glob.glob(os.path.join(HERE, "scenarios", "*.sh")))]
    cases = [case for case in cases if re.search(options.k, case.name)]
    os.makedirs(CACHE, exist_ok=True)
    began = time.monotonic()
    results = []
    with concurrent.futures.ThreadPoolExecutor(1) as builder, concurrent.futures.ThreadPoolExecutor(options.j) as pool:
        ready = [(machine, builder.submit(build, machine, any("agent" in case.needs for case in cases)) if not options.no_build else None,
                  pool.submit(prepare, machine)) for machine in machines]
        runs, running = [], []
        for machine, built, made in ready:
            if built:
                built.result()
            mine = [(machine, made.result(), case) for case in cases if case.runs_on(machine)]
            runs += mine
            running += [pool.submit(run, *what, options) for what in mine]
        results = [one.result() for one in running]
    again(results, runs, options)
    table(results)
    failed = [result for result in results if not result[2]]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"tests/vm: {len(results) - len(failed)} passed, {len(failed)} failed in {time.monotonic() - began:.0f} s "
          f"({used.ru_utime + used.ru_stime:.0f} s of processor time)")
    return 1 if failed or not results else 0


sys.exit(main())
