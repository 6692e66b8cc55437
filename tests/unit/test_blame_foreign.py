"""Code of modules and of BPF programs that operations run or sleep in."""

from __future__ import annotations

import pytest
from blame_cases import (
    HOG,
    IO_WAIT,
    OTHER,
    SCHEDULE,
    named,
    processes,
    served,
    server,
    us,
    wait,
)

from tracer.blame import analyse
from tracer.model import (
    Holder,
    Process,
)

HOOKED = ("hook_open [agent]", "do_dentry_open", "vfs_open", "nfsd4_open")
ANSWERED = ("try_to_wake_up", "complete", "agent_write [agent]", "vfs_write", "ksys_write")


class TestForeignCode:
    rows = server().processes | processes(Process(HOG, comm="agentd", exe="/opt/agentd"))

    def named_for(self, *waits):
        analysis = analyse([server([served(10, 12, *waits)], processes=self.rows, listeners=())])
        return analysis, named(analysis)

    def test_a_module_that_sleeps(self):
        analysis, names = self.named_for(wait(10, 11.9, (*SCHEDULE, "msleep", *HOOKED)))
        assert names == [("module", "agent", "module")]
        assert "The kernel module agent on server" in analysis.verdict.summary

    def test_who_answers_a_module_stands_for_it(self):
        asked = wait(
            10,
            11.9,
            (*SCHEDULE, "wait_for_completion", *HOOKED),
            waker=HOG,
            waker_stack=ANSWERED,
        )
        analysis, names = self.named_for(asked)
        assert names == [("process", "agentd", "module")]
        chain = analysis.verdict.culprits[0].chain
        assert [one.link.name for one in chain] == ["agent", "agentd"]

    @pytest.mark.parametrize(
        "waker_stack",
        [
            ("try_to_wake_up", "complete", "other_write [other]"),
            ("try_to_wake_up", "agent_tick [agent]", "__do_softirq", "asm_common_interrupt"),
        ],
    )
    def test_who_woke_its_thread_otherwise_does_not(self, waker_stack):
        stack = (*SCHEDULE, "wait_for_completion", *HOOKED)
        woken = wait(10, 11.9, stack, waker=HOG, waker_stack=waker_stack)
        assert self.named_for(woken)[1] == [("module", "agent", "module")]

    def test_what_the_function_behind_it_waits_for_is_no_modules_doing(self):
        analysis, names = self.named_for(wait(10, 11.9, (*IO_WAIT, *HOOKED)))
        assert names == []
        assert analysis.causes["disk"] == us(1.9)

    @pytest.mark.parametrize(
        ("owner", "culprit", "said"),
        [
            ("bpf burn_opens 41", ("bpf", "burn_opens", "bpf"), "The BPF program burn_opens"),
            ("module agent", ("module", "agent", "module"), "The kernel module agent"),
        ],
    )
    def test_whose_code_had_the_cpu(self, owner, culprit, said):
        ran = wait(10, 11.9, HOOKED[1:], kind="running", owner=owner, count=400)
        analysis, names = self.named_for(ran)
        assert names == [culprit]
        assert analysis.verdict.summary.startswith(said)
        assert "ran for 1.9 s" in analysis.verdict.culprits[0].evidence[0]

    def test_what_interrupts_took_is_nobodys(self):
        ran = wait(10, 11.9, ("common_interrupt",), kind="running", owner="irq softirq")
        analysis, names = self.named_for(ran)
        assert names == []
        assert analysis.causes["irq"] == us(1.9)

    def test_a_little_of_each_operation_is_no_stall_of_its(self):
        ran = wait(10, 10.08, HOOKED[1:], kind="running", owner="module driver")
        analysis, names = self.named_for(ran)
        assert names == []
        assert analysis.causes["module"] == us(0.08)

    def test_a_programs_number_and_holder_are_told(self):
        ran = wait(10, 11.9, HOOKED[1:], kind="running", owner="bpf burn_opens 41")
        holders = [Holder(HOG, "program", "41"), Holder(OTHER, "program", "42")]
        ops = [served(10, 12, ran)]
        analysis = analyse([server(ops, processes=self.rows, listeners=(), holders=holders)])
        first, *others = analysis.verdict.culprits[0].evidence
        assert first.startswith("program 41: ran for 1.9 s")
        assert others == ["program 41 is held by agentd (pid 600)"]

    @pytest.mark.parametrize("owner", ["bpf", "bpf ", "module", "", "bpf \x1b[31m x y"])
    def test_an_owner_that_is_none_harms_nothing(self, owner):
        analysis, _ = self.named_for(wait(10, 11.9, (), kind="running", owner=owner))
        assert sum(analysis.causes.values()) == us(2)

    def test_code_of_an_unknown_owner_is_the_threads_own(self):
        ran = wait(10, 11.9, HOOKED[1:], kind="running", owner=None)
        analysis, names = self.named_for(ran)
        assert names == []
        assert set(analysis.causes) == {"running"}
