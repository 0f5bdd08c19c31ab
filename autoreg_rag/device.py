"""Where a model runs, and in what numbers: what this machine is best at."""

from __future__ import annotations

import torch

from autoreg_rag.errors import ModelError, first_line

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str | None) -> torch.device:
    """Return the device asked for, or the best there is.

    Raises
    ------
    ModelError
        The device asked for is not a device, or not here.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(1, device=place).tolist()  # the device "meta" holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(f"device {device!r} cannot be used here: {first_line(error)}") from error
    return place


def choose_dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    """Return the number format asked for, or the fastest of the device.

    bfloat16 on GPUs and CPUs with matrix units for it (on CPUs AMX or AVX512-BF16); without
    such units it is emulated, many times slower than float16 on a GPU or float32 on a CPU.

    Raises
    ------
    ModelError
        The format is not known.
    """
    if dtype is not None:
        if dtype not in DTYPES:
            raise ModelError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
        return DTYPES[dtype]
    if device.type == "cuda":
        has_units = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_units else torch.float16
    return torch.bfloat16 if device.type == "cpu" and _cpu_has_bf16_units() else torch.float32


def _cpu_has_bf16_units() -> bool:
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)
