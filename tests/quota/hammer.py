"""One of several processes that take all they can of a shared quota.

`python -m tests.quota.hammer PATH REQUESTS WINDOW SECONDS [ROTATE_AT]` prints the time of each
departure, seconds.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from stable_async import Quota
from stable_async.quota import Slot
from stable_async.quota.homes import file
from stable_async.quota.homes.file import FileHome


def main() -> None:
    path, requests, window, seconds, *rotate_at = sys.argv[1:]
    if rotate_at:
        file.ROTATE_AT = int(rotate_at[0])
    quota = Quota(int(requests), float(window), jitter=float(window) / 10, adaptive=False)
    home = FileHome(Path(path), quota)
    home.open_now()
    print("open", flush=True)
    end = time.monotonic() + float(seconds)
    while (now := time.monotonic()) < end:
        slot = home.reserve(now)
        if not isinstance(slot, Slot):
            time.sleep(min(max(slot - now, 0.0), 0.01))
        elif home.mark_sent(slot, time.monotonic()):
            print(time.monotonic(), flush=True)


if __name__ == "__main__":
    main()
