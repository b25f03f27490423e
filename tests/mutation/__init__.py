"""Guard mutation: every guard of the transitions is taken away, one at a time, and some test must notice.

`python -m tests.mutation` does it and prints the table. Guards of SQL are lines that end in `-- guard: <name>`; those
of Python are listed in `checks.py`. Survivors that cannot matter are explained in `survivors.py`.
"""
