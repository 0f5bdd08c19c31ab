"""Weights that are shared out on CPUs: accelerate does so on GPUs alone.

Started as a program by accelerate's launcher, it prints what the launcher tells a process.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import DistributedType

from tests.trainers.test_processes import smooth


def take_cpus(rank: int) -> None:
    """Have accelerate treat processes on CPUs as it treats those on GPUs; `smooth` too.

    What each prints is left in a file of its own.
    """
    smooth(rank)
    sys.stdout = Path(f"printed-{rank}").open("w")  # noqa: SIM115 - until the process ends
    join = PartialState.__init__

    def joined(self: PartialState, *args: object, **kwargs: object) -> None:
        join(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = joined


if __name__ == "__main__" and os.environ["RANK"] == "0":
    told = ("ACCELERATE_", "FSDP_")
    print(json.dumps({k: v for k, v in os.environ.items() if k.startswith(told)}))
