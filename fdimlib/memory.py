"""Refuse what does not fit before allocating it: a clear error beats a machine that swaps."""

import psutil
import torch


def require_memory(needed: int, device: torch.device | str, what: str) -> None:
    """Raise MemoryError with both numbers when `needed` bytes exceed what is free on the device."""
    device = torch.device(device)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise MemoryError(f"{what}: needs {needed:,} bytes, {free:,} are free on {device}; "
                          "use a smaller sample or network, or a machine with more memory")
