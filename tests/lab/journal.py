"""What the writers wrote down, and what follows from it."""
from collections import namedtuple

Ack = namedtuple("Ack", "source number t node timeline")


def read(path, names=None):
    """All acknowledgements in order of time. `names`: address or socket directory to box."""
    acks = []
    try:
        with open(path) as file:
            for line in file:
                part = line.split(" ")
                if part[0] == "A" and line.endswith("\n"):
                    acks.append(Ack(part[1], int(part[2]), float(part[3]), (names or {}).get(part[4], part[4]), int(part[5])))
    except FileNotFoundError:
        pass
    return sorted(acks, key=lambda ack: ack.t)


def longest_gap(acks, since, until, sources=None):
    """(length, from, to) of the longest time without an acknowledgement between the two moments."""
    times = [since] + [a.t for a in acks if since <= a.t <= until and (not sources or a.source in sources)] + [until]
    gaps = [(b - a, a, b) for a, b in zip(times, times[1:])]
    return max(gaps)


def outage(acks, fault, sources=None):
    """Seconds from the last acknowledgement before the longest gap after the fault to the first one after it."""
    times = [a.t for a in acks if a.t >= fault - 1 and (not sources or a.source in sources)]
    gaps = [(b - a, a, b) for a, b in zip(times, times[1:]) if b > fault]
    return max(gaps) if gaps else None


def overlaps(acks):
    """Pairs of writers (node, timeline) that acknowledged during the same time: [(a, b, seconds)].

    A primary is one (node, timeline). Two of them may follow each other; if the spans of
    their acknowledgements overlap, there were two writers at a time.
    """
    spans = {}
    for ack in acks:
        key = (ack.node, ack.timeline)
        first, last = spans.get(key, (ack.t, ack.t))
        spans[key] = (min(first, ack.t), max(last, ack.t))
    found = []
    keys = sorted(spans)
    for i, a in enumerate(keys):
        for b in keys[i + 1:]:
            together = min(spans[a][1], spans[b][1]) - max(spans[a][0], spans[b][0])
            if together > 0 and a[0] != b[0]:
                found.append((a, b, together))
    return found


def missing(acks, present, source="app"):
    """Acknowledged rows of a source that are not among the numbers present."""
    return [a for a in acks if a.source == source and a.number not in present]


def states(path):
    """[(t, box, primary|standby|down)]: what the looks into the boxes saw."""
    found = []
    with open(path) as file:
        for line in file:
            part = line.split()
            if part and part[0] == "S" and line.endswith("\n"):
                found.append((float(part[3]), part[1], part[5]))
    return found
