"""Bytes of the tensors that are alive on a CPU, exact to the storage, and their peak.

Every operation that torch dispatches shows its results to a dispatch mode; a storage counts from
then until it is freed, which a weak reference tells. Not seen: what a kernel takes and gives back
inside of one operation, and what C++ allocates past the dispatcher.
`tests/backend/models/test_storage_tracker.py` holds the method against known allocations. On a GPU
torch's allocator counts, see `parplan.backend.proxies.memory_runs`.
"""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class StorageTracker(TorchDispatchMode):
    """Counter of storages that are made, or shown to `add`, while it is entered.

    It may be entered again and again, and sees what is freed in between.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.peak_bytes = 0
        """Since `reset_peak`."""
        self._sizes: dict[int, tuple[Any, int]] = {}
        self._originals: list[Any] = []

    def __enter__(self) -> Any:
        """Watch storages being resized as well, which torch does not dispatch."""
        tracker, original = self, torch.UntypedStorage.resize_

        def resize(storage: torch.UntypedStorage, size: int) -> Any:
            result = original(storage, size)
            known = tracker._sizes.get(storage._cdata)
            if known is not None and known[0]() is storage:
                tracker._resize(storage._cdata, known, storage.nbytes())
            return result

        self._originals.append(original)
        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign, assignment]
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: object) -> None:
        """Stop watching."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        torch.UntypedStorage.resize_ = self._originals.pop()  # type: ignore[method-assign]

    def add(self, tensors: Iterable[Any]) -> None:
        """Count the storages of these tensors, if they are not counted yet."""
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor):
                self._count(tensor)

    def reset_peak(self) -> None:
        """The peak from now on."""
        self.peak_bytes = self.live_bytes

    def _count(self, tensor: torch.Tensor) -> None:
        inner = getattr(tensor, "_local_tensor", None)  # DTensor
        if inner is not None:
            tensor = inner
        if tensor.device.type == "meta":
            return
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):  # Wrappers without a storage.
            return
        key = storage._cdata
        size = storage.nbytes()
        known = self._sizes.get(key)
        if known is not None and known[0]() is storage:
            self._resize(key, known, size)
            return

        def freed(_: Any, key: int = key) -> None:
            entry = self._sizes.get(key)
            if entry is not None and entry[0] is reference:
                del self._sizes[key]
                self.live_bytes -= entry[1]

        reference = weakref.ref(storage, freed)
        if known is not None:
            self.live_bytes -= known[1]
        self._sizes[key] = reference, size
        self._grow(size)

    def _resize(self, key: int, known: tuple[Any, int], size: int) -> None:
        """fully_shard frees gathered parameters by storages of size 0."""
        if size != known[1]:
            self._sizes[key] = known[0], size
            self._grow(size - known[1])

    def _grow(self, size: int) -> None:
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        self.add(tree_leaves(result))
        return result
