"""A process of a run without a run: it joins the others, beats, and ends as it is told on stdin.

python tests/runtime/peer.py PORT PROCESS COUNT SECONDS_UNTIL_SILENT_IS_LOST
"""

import sys

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import peers

port, process, count, silent = map(int, sys.argv[1:])
peers.SILENT, peers.BEAT, peers.GRACE, peers.STALLED = silent, silent / 8, 1.0, silent / 2
try:
    if process == 0:
        links = peers.gather(port, "localhost", count, 60)[0]
    else:
        links = [peers.visit("localhost", port, process, count, 60)[0]]
    others = peers.Peers(process, count, links)
    others.before_end(lambda line: print("last:", line, flush=True))
    with peers.farewell(others):
        others.start()
        print("joined", flush=True)
        word = sys.stdin.readline().strip()
        if word == "collective":
            raise RuntimeError("Gloo: connection closed by peer")
        if word == "mistake":
            raise UserError("a mistake of this process alone")
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
