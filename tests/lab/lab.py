"""Runs the scenarios: `lab.py [-k PATTERN] [--agent mastiff|patroni|mixed] [-j N] [--repeat N] [FILE...]`.

The closing line is `N passed, N failed` (skipped ones are named above it).
"""
import argparse
import glob
import json
import os
import re
import signal
import sys
import tempfile
import time
import traceback

import cluster
import scenario

HERE = os.path.dirname(os.path.abspath(__file__))

# How the process of a scenario ends.
HELD, FAILED, BROKEN, STOPPED = 0, 1, 3, 130


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests/lab/run", description="real PostgreSQL, etcd and agents in network namespaces")
    parser.add_argument("-k", default="", help="only scenarios whose name matches this regular expression")
    parser.add_argument("--agent", choices=("mastiff", "patroni", "mixed"), default="mastiff")
    parser.add_argument("--embedded", action="store_true", help="every cluster keeps its store in the agents; scenarios that speak of etcd make no sense then")
    parser.add_argument("-j", type=int, default=1, help="how many at a time")
    parser.add_argument("-v", action="store_true", help="print every command with its time")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run each scenario N times and print a table")
    parser.add_argument("--again", type=int, default=0, metavar="N", help="up to N failed scenarios get a second try, alone; never one that broke a promise")
    parser.add_argument("--list", help="a file with the scenarios to run, one a line: NAME [AGENT]")
    parser.add_argument("--logs", help="directory to keep the logs of failed scenarios in")
    parser.add_argument("--help-language", action="store_true", help="the commands of the scenario language")
    parser.add_argument("files", nargs="*")
    return parser.parse_args()


def chosen(options):
    """The parsed scenarios, in order of name."""
    paths = options.files or sorted(glob.glob(os.path.join(HERE, "scenarios", "*.lab")))
    if options.list:
        with open(options.list) as file:
            words = [line.split("#")[0].split() for line in file]
        return [planned(os.path.join(HERE, "scenarios", f"{word[0]}.lab"), word[1] if word[1:] else options.agent) for word in words if word]
    found = [planned(path, options.agent) for path in paths]
    return [one for one in found if re.search(options.k, one.name)]


def planned(path, agent):
    """A parsed scenario that knows which agent it runs with."""
    case = scenario.Scenario(path)
    case.agent = agent
    return case


def one(case, options):
    """Runs one scenario in this process; how it ended, and its notes."""
    began = cluster.now()
    story = []

    def say(text):
        story.append(f"    {cluster.now() - began:7.2f}  {text}")
        if options.v:
            print(story[-1], flush=True)

    run = scenario.Run(case, case.agent, say)
    try:
        run.execute()
        took = cluster.now() - began
        print(f"ok      {case.name:28} {case.agent:8} {took:6.1f}s  {', '.join(run.notes)}", flush=True)
        return HELD, run.notes
    except BaseException as error:
        took = cluster.now() - began
        text = str(error) if isinstance(error, cluster.LabError) else "".join(traceback.format_exception(error))
        lines = [f"FAILED  {case.name:28} {case.agent:8} {took:6.1f}s  {', '.join(run.notes)}", *story, text, run.tails()]
        print("\n".join(lines), flush=True)
        if options.logs and run.cluster:
            keep(run, os.path.join(options.logs, case.name))
        if isinstance(error, KeyboardInterrupt):
            raise
        return BROKEN if isinstance(error, cluster.BrokenPromise) else FAILED, run.notes
    finally:
        run.close()


def keep(run, directory):
    """Copies the logs of a failed scenario."""
    os.makedirs(directory, exist_ok=True)
    for name in os.listdir(run.cluster.dir):
        if name.endswith((".log", ".err")):
            with open(os.path.join(run.cluster.dir, name), "rb") as source, open(os.path.join(directory, name), "wb") as target:
                target.write(source.read())


def child(case, options, results):
    """Runs a scenario in a process of its own (its own prefix); returns the pid. Its notes are appended to the file `results`."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = STOPPED
        try:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))
            code, notes = one(case, options)
            results.write(json.dumps([case.name, case.agent, code == HELD, notes]) + "\n")
            results.flush()
        except BaseException:
            code = STOPPED
        finally:
            sys.stdout.flush()
            os._exit(code)
    return pid


def all_of(cases, options, results):
    """Runs all, `-j` at a time; returns the ones that failed, each with its exit code."""
    waiting, running, failed = list(cases), {}, []
    try:
        while waiting or running:
            while waiting and len(running) < options.j:
                case = waiting.pop(0)
                running[child(case, options, results)] = case
            pid, status = os.wait()
            if pid in running:
                case = running.pop(pid)
                if status != 0:
                    failed.append((case, os.waitstatus_to_exitcode(status)))
    except BaseException:
        for pid in running:
            os.kill(pid, signal.SIGTERM)
        for pid in running:
            os.waitpid(pid, 0)
        raise
    return failed


def again(failed, options, results):
    """A second try, alone, for scenarios that a busy machine may have failed; returns what failed for good.

    A broken promise gets none; nor does anything when so many failed that it is not the machine.
    """
    if len(failed) > options.again or any(code != FAILED for _, code in failed):
        return failed
    cases = [case for case, _ in failed]
    for case in cases:
        print(f"again   {case.name:28} {case.agent:8} a second try, alone", flush=True)
    options.j = 1
    return all_of(cases, options, results)


def table(results):
    """One line a scenario: how often it held, and the range of every number it noted (`gap 1.23s`)."""
    results.seek(0)
    rows = {}
    for name, agent, held, notes in map(json.loads, results):
        row = rows.setdefault((name, agent), {"runs": 0, "held": 0, "values": {}})
        row["runs"] += 1
        row["held"] += held
        for word, value in re.findall(r"([a-z]+) (-?[\d.]+)s", ", ".join(notes)):
            row["values"].setdefault(word, []).append(float(value))
    print(f"{'scenario':28} {'agent':8} held      lowest … highest of what was measured, seconds")
    for (name, agent), row in sorted(rows.items()):
        ranges = [f"{word} {min(values):.2f} … {max(values):.2f}" for word, values in row["values"].items()]
        print(f"{name:28} {agent:8} {row['held']:2} of {row['runs']:2}  {', '.join(ranges)}")


def main():
    """See the head of the file."""
    options = arguments()
    if options.help_language:
        print(scenario.__doc__ + "\n" + scenario.language())
        return 0
    if os.geteuid() != 0:
        print("the lab makes network namespaces: run it as root", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))
    cluster.sweep()
    cluster.EMBEDDED = options.embedded
    cases = chosen(options)
    skipped = [c for c in cases if c.agent in c.skips]
    for case in skipped:
        print(f"skipped {case.name:28} {case.agent:8}          {case.skips[options.agent]}")
    cases = [c for c in cases if c not in skipped]
    began = time.monotonic()
    cases = [case for case in cases for _ in range(options.repeat)]
    with tempfile.TemporaryFile("a+") as results:
        failed = again(all_of(cases, options, results), options, results)
        if options.repeat > 1:
            table(results)
    print(f"{time.monotonic() - began:.0f} s" + (f", failed: {' '.join(sorted({case.name for case, _ in failed}))}" if failed else ""))
    print(f"{len(cases) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
