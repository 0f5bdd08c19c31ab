"""A training command whose weights are shared out on CPUs: accelerate does so on GPUs alone."""

from __future__ import annotations

import sys

from accelerate import PartialState
from accelerate.utils import DistributedType

from tests.trainers.running import run_here
from tests.trainers.test_processes import smooth


def take_cpus() -> None:
    """Have accelerate treat processes on CPUs as it treats those on GPUs."""
    join = PartialState.__init__

    def joined(self: PartialState, *args: object, **kwargs: object) -> None:
        join(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = joined


if __name__ == "__main__":
    take_cpus()
    smooth(0)
    sys.exit(run_here(sys.argv[1], *sys.argv[2:]))
