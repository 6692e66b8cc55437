"""What is known of a process beyond its own folder of /proc: its pod, its command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tracer.procfs.aside import Aside
from tracer.procfs.pods import Pods
from tracer.procfs.processes import Facts, ProcReader


class Surroundings:
    """Completes the facts of processes with what may take long to find."""

    def __init__(self, logs: Path, read: ProcReader, aside: Aside, *, command_lines: bool) -> None:
        self._aside = aside
        self._pods = Pods(logs, self._aside)
        self._read = read
        self._command_lines = command_lines

    def new_interval(self) -> None:
        """Let what was unknown so far be looked for once more."""
        self._pods.new_interval()

    def complete(self, pid: int, start_ns: int, facts: Facts) -> tuple[Facts, bool]:
        """Return the facts with what else is known by now, and whether more may be soon."""
        more = False
        if facts.pod_uid and facts.pod_name is None:
            pod, more = self._pods.pod(facts.pod_uid, facts.container)
            if pod:
                facts = replace(facts, pod_namespace=pod.namespace, pod_name=pod.name)
        # A state is known of those that live.
        if self._command_lines and facts.command_line is None and facts.state and not facts.kthread:
            key = (pid, start_ns)
            if self._aside.ask(key, lambda: self._read.command_line(pid, start_ns)):
                facts = replace(facts, command_line=self._aside.take(key))
            else:
                more = True
        return facts, more
