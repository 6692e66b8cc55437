"""What can go wrong, each with the exit code the lab's help documents."""


class LabError(Exception):
    """The lab itself could not do its work; the message says the mend."""

    exit_code = 4


class UsageError(LabError):
    """The command line or the scenario is wrong."""

    exit_code = 2


class LostGuest(LabError):
    """A guest died or fell silent: no verdict on what was tested in it."""

    exit_code = 3


class ProductError(LabError):
    """nfsblame itself failed while it was being tested: a FAIL, without a report to judge."""

    exit_code = 1
