"""How much memory a call may take: the argument ``memory``, and what is free."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from inseq.engine.memory.plan import MemoryLimit
from inseq.errors import ArgumentError
from inseq.models.adapter import Adapter

SHARE = 0.5
"""Of the free memory: what a call takes at most by default."""

UNKNOWN = 2 * 2**30
"""What is taken for free on a device that does not tell."""

UNITS = {"": 1, "b": 1} | {f"{letter}b": 1000**k for k, letter in enumerate("kmgt", 1)}
UNITS |= {f"{letter}ib": 1024**k for k, letter in enumerate("kmgt", 1)}


EXPECTED = "a number of bytes, a text such as '2 GiB' or '500 MB', or a share of what is free, above 0 and at most 1 (0.5)"


def room_of(memory: Any, adapter: Adapter) -> MemoryLimit:
    """What a call may take beside the loaded model.

    Raises:
        ArgumentError: for a ``memory`` that is no size.
    """
    devices = {adapter.device, *(parameter.device for parameter in adapter.model.parameters())}
    if memory is None:
        return MemoryLimit(int(SHARE * free(devices)), "half of what is free", strict=False)
    if isinstance(memory, float) and 0 < memory <= 1:
        return MemoryLimit(int(memory * free(devices)), f"{memory:g} of what is free")
    size = _size(memory)
    if size is None or size < 1:
        raise ArgumentError(f"memory={memory!r} must be {EXPECTED}.")
    return MemoryLimit(size, repr(memory))


def _size(memory: Any) -> int | None:
    if isinstance(memory, int) and not isinstance(memory, bool):
        return memory
    if not isinstance(memory, str):
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", memory.lower())
    return int(float(found[1]) * UNITS[found[2]]) if found and found[2] in UNITS else None


def free(devices: Iterable[torch.device]) -> int:
    """Bytes that are free on the fullest of some devices."""
    return min(_free_on(device) for device in devices)


def _free_on(device: torch.device) -> int:
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + unused)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    if device.type == "cpu":
        known = [size for size in (_available(), *_left_to_group()) if size is not None]
        return min(known) if known else UNKNOWN
    return UNKNOWN


def _available(path: str = "/proc/meminfo") -> int | None:
    with suppress(OSError, ValueError, StopIteration):
        lines = Path(path).read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return None


def _left_to_group(root: str = "/sys/fs/cgroup") -> list[int | None]:
    """What a container's limits leave, files that can be dropped counted as free; versions 2 and 1."""
    older = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file")
    return [_left(Path(root), *each) for each in (("memory.max", "memory.current", "inactive_file"), older)]


def _left(root: Path, limit: str, used: str, droppable: str) -> int | None:
    with suppress(OSError, ValueError):
        most, now = int((root / limit).read_text()), int((root / used).read_text())
        stat = (root / limit).parent / "memory.stat"
        facts = dict(line.split()[:2] for line in stat.read_text().splitlines()) if stat.exists() else {}
        return max(0, most - now + int(facts.get(droppable, 0)))
    return None
