"""What a process waits for because of its own requests: nobody's, or his who is in others' way.

Who copies a large file waits for his own data, which is how it should be. If the same data is what
all others wait for most, his own waits tell how much there is of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tracer.blame.accounts import Programs
from tracer.blame.causes import Cause
from tracer.blame.charge import Charge, Culprit, charge_to, merged
from tracer.blame.stalls import Stall
from tracer.model import HostCapture


def with_own(
    stalls: Sequence[Stall], culprit: Culprit, cause: Cause, captures: Sequence[HostCapture]
) -> list[Stall]:
    """Return the stalls with what a culprit's program waited for itself charged to it, too.

    ``culprit``: who stands for the program. ``cause``: what it does to others.
    """
    its = Programs(stalls, captures).members(culprit)

    def settled(charge: Charge) -> Charge:
        return charge_to(cause, charge.own) if charge.own in its else charge

    return [
        replace(stall, bill=merged({settled(charge): us} for charge, us in stall.bill.items()))
        for stall in stalls
    ]
