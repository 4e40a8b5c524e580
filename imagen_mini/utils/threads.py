"""How CPU threads wait. To be called before torch is loaded; this file imports no torch."""

import os


def wait_passively() -> None:
    """Let the threads of torch sleep while they wait, instead of spinning.

    OpenMP's threads spin by default. Beside another busy process they take the cores from it and
    from one another. OpenMP reads OMP_WAIT_POLICY once, when torch loads it. A value that the user
    has set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
