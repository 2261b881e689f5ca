"""`kes metric` (cli.md 5.9): what a server counts, sampled until somebody ends it.

On a terminal it is a table in place, which says why there is no newer sample and goes on trying; for programs a line of
JSON for each sample, up to the first that cannot be had. What is not defined, as a share of no requests, is `-`.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from time import monotonic, sleep
from typing import Final

from kes.cli.client import attempt, connect
from kes.cli.command import Given
from kes.cli.errors import CommandError
from kes.cli.live import Screen, endless, terminal_size
from kes.cli.terminal import Terminal, one_line
from kes.cli.text import size
from kes.client import Client, Metrics
from kes.config.duration import render

_UNDEFINED: Final = "-"
_WIDTHS: Final = (19, 16, 16, 11, 15)
_REQUEST: Final = ("OK [2xx]", "Err [4xx]", "Err [5xx]", "Req/s", "Latency")
_SYSTEM: Final = ("UpTime", "Heap", "Stack", "CPUs", "Threads")


@dataclass(frozen=True, slots=True)
class Sample:
    """Metrics, and when they came: seconds of the monotonic clock."""

    metrics: Metrics
    time: float

    @property
    def requests(self) -> int:
        return self.metrics.requests_ok + self.metrics.requests_err + self.metrics.requests_fail


def run(given: Given, terminal: Terminal) -> None:
    """Print samples until SIGINT or SIGTERM. Raises CommandError for a sample that fails where no person watches."""
    rate, once = given.seconds("rate"), given.flag("once")
    with connect(given, terminal) as client, endless():
        if once:
            sample = _sample(client)
            if terminal.wants_prose:
                terminal.print(*_table(sample, None, terminal))
            else:
                terminal.json(_document(sample.metrics))
        elif terminal.wants_prose:
            # Without escape sequences there is no way back to the lines above.
            plain = given.text("color") == "never" or os.environ.get("TERM") == "dumb"
            _watch(client, rate, terminal, redraw=not plain)
        else:
            _stream(client, rate, terminal)


def _sample(client: Client) -> Sample:
    with attempt(client, "fetch metrics"):
        return Sample(client.metrics(), monotonic())


def _stream(client: Client, rate: float, terminal: Terminal) -> None:
    while True:
        started = monotonic()
        terminal.json(_document(_sample(client).metrics))
        terminal.write("", flush=True)
        sleep(max(0.0, started + rate - monotonic()))


def _watch(client: Client, rate: float, terminal: Terminal, *, redraw: bool) -> None:
    before, last = None, None
    with Screen(terminal, redraw=redraw) as screen:
        while True:
            started, failure = monotonic(), None
            try:
                before, last = last, _sample(client)
            except CommandError as error:
                failure = error
                # A fetch that fails may take longer than the rate; there is a pause all the same.
                started = monotonic()
            screen.draw(_lines(last, before, failure, terminal))
            while screen.wait(started + rate):
                screen.draw(_lines(last, before, failure, terminal))


def _lines(last: Sample | None, before: Sample | None, failure: CommandError | None, terminal: Terminal) -> list[str]:
    """What is shown: the last sample that could be had, and why there is no newer one."""
    lines = _table(last, before, terminal)
    if failure is not None:
        width = max(terminal_size()[0] - 1, 1)
        texts = [f"Error: {failure}", *(f"Hint: {hint}" for hint in failure.hints)]
        lines += [line for text in texts for line in textwrap.wrap(one_line(text), width)]
    return lines


def _table(last: Sample | None, before: Sample | None, terminal: Terminal) -> list[str]:
    """The table, or a list if the terminal is too narrow for it."""
    counts, shares = _requests(last, before)
    system = _system(last)
    bold = terminal.style.bold
    if terminal_size()[0] < sum(_WIDTHS):
        rows = zip_longest((*_REQUEST, *_SYSTEM), (*counts, *system), shares, fillvalue="")
        return [f"{bold(f'{label:<9}')} {value:>11} {share:>8}".rstrip() for label, value, share in rows]
    return [
        "",
        bold(_line("Request", _REQUEST)),
        _line("", counts),
        _line("", shares),
        "",
        bold(_line("System", _SYSTEM)),
        _line("", system),
        "",
    ]


def _line(label: str, values: Sequence[str]) -> str:
    cells = [f"{value:>{width}}" for value, width in zip(values, _WIDTHS, strict=False)]
    return label + "".join(cells)[len(label) :]


def _requests(last: Sample | None, before: Sample | None) -> tuple[list[str], list[str]]:
    """The values of _REQUEST, and below the first of them their shares of all requests."""
    if last is None:
        return [_UNDEFINED] * len(_REQUEST), [_UNDEFINED] * 3
    metrics = last.metrics
    counts = (metrics.requests_ok, metrics.requests_err, metrics.requests_fail)
    shares = [f"{count / last.requests:.2%}" if last.requests else _UNDEFINED for count in counts]
    return [*map(str, counts), request_rate(last, before), mean_latency(metrics.latency)], shares


def request_rate(last: Sample, before: Sample | None) -> str:
    """Requests per second in the time that was between the samples; not defined if the server has begun anew."""
    if before is None or last.requests < before.requests or last.time <= before.time:
        return _UNDEFINED
    return f"{(last.requests - before.requests) / (last.time - before.time):.2f}"


def mean_latency(buckets: dict[float, int]) -> str:
    """The mean of the bounds that the requests stayed below. Those above the last bound have none, and do not count."""
    total, seconds, below = 0, 0.0, 0
    for bound, count in buckets.items():
        seconds += bound * (count - below)
        total = below = count
    return render(round(seconds / total, 3)) if total else _UNDEFINED


def _system(last: Sample | None) -> list[str]:
    if last is None:
        return [_UNDEFINED] * len(_SYSTEM)
    metrics = last.metrics
    return [
        render(round(metrics.uptime)),
        size(metrics.mem_heap_used),
        size(metrics.mem_stack_used),
        str(metrics.num_cpu_used or metrics.num_cpu),
        str(metrics.num_threads),
    ]


def _document(metrics: Metrics) -> dict[str, object]:
    return {
        "kes_http_request_success": metrics.requests_ok,
        "kes_http_request_error": metrics.requests_err,
        "kes_http_request_failure": metrics.requests_fail,
        "kes_http_request_active": metrics.requests_active,
        "kes_log_audit_events": metrics.audit_events,
        "kes_log_error_events": metrics.error_events,
        "kes_http_response_time": {str(_nanoseconds(bound)): count for bound, count in metrics.latency.items()},
        "kes_system_up_time": _nanoseconds(metrics.uptime),
        "kes_system_num_cpu": metrics.num_cpu,
        "kes_system_num_cpu_used": metrics.num_cpu_used,
        "kes_system_num_threads": metrics.num_threads,
        "kes_system_mem_heap_used": metrics.mem_heap_used,
        "kes_system_mem_heap_objects": metrics.mem_heap_objects,
        "kes_system_mem_stack_used": metrics.mem_stack_used,
    }


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 10**9)
