"""The seam between an output and its acceptance: what an agent proposes is judged here, by code and not by a model.

`run_gates(names, subject)` runs the schema gate and then the named ones, in order, and stops at the first that does
not pass. Only `pass` lets an output through: a gate that raises, hangs or is unknown abstains.
"""

from workers.gates.run import check_names, run_gates
from workers.gates.subject import Subject

__all__ = ["Subject", "check_names", "run_gates"]
