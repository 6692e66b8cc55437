"""Blame: pure functions from captures to causes, culprits and a verdict.

The way of the data: ``signatures`` and ``culprits`` say what a wait is and who is
behind it; ``join`` matches client and server; ``occupancy`` knows what a server's
threads did; ``ledger`` bills every operation; ``stalls`` counts; ``verdict`` ranks.
"""

from tracer.blame.analysis import Analysis, analyse

__all__ = ("Analysis", "analyse")
