"""`python -m tests.faults.shifted SECONDS MODULE ARGUMENTS...`: a program whose wall clock is wrong by so much.

`time.time` is shifted before anything is imported. libfaketime would shift `datetime.now` as well, but it breaks the
waits of Python 3.11 (measured: EINVAL from sleep, or waits that never end), so nothing could be learnt from it.
"""

import runpy
import sys
import time


def main() -> None:
    offset = int(sys.argv[1])
    seconds, nanoseconds = time.time, time.time_ns
    vars(time)["time"] = lambda: seconds() + offset
    vars(time)["time_ns"] = lambda: nanoseconds() + offset * 10**9
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
