"""Runs several ranks of a peer as one node: in one session, as the workers of a Holdfast node are, since Linux shares
processors between sessions (autogroups).

    node.py FIRST_RANK COUNT SCRIPT [ARGUMENT]...

Ends with its first rank that ends; whoever started it kills the process group.
"""

import os
import subprocess
import sys


def main() -> int:
    first, count = int(sys.argv[1]), int(sys.argv[2])
    ranks = [
        subprocess.Popen([sys.executable, *sys.argv[3:]], env={**os.environ, "RANK": str(rank)})
        for rank in range(first, first + count)
    ]
    pid, status = os.wait()
    print(f"pid {pid} of ranks {first} to {first + len(ranks) - 1} ended", file=sys.stderr)
    return os.waitstatus_to_exitcode(status) or 1


if __name__ == "__main__":
    sys.exit(main())
