"""Pickle and copy for `types.MappingProxyType`, the frozen mapping of Python 3.12 to 3.14."""

from __future__ import annotations

import copyreg
import sys
from types import MappingProxyType

TYPE_CHECKING = False  # the import of typing would be slow
if TYPE_CHECKING:
    from typing import Any


def register_reducers() -> None:
    """Let pickle and copy take `types.MappingProxyType`, the frozen mapping of 3.12 to 3.14.

        >>> permaheap.register_reducers()
        >>> pickle.loads(pickle.dumps(frozen)) == frozen
        True

    After this call, in this interpreter, a pickled frozen mapping unpickles as an equal mapping
    proxy over a new dict. `copy.copy` returns a proxy over a shallow copy of the dict,
    `copy.deepcopy` one over a deep copy. The program that reads the pickle needs permaheap
    installed, but need not call this function. The copies are ordinary objects, not frozen ones:
    to send a frozen object within the family, `share` it instead.

    It registers with `copyreg`, which affects every mapping proxy and every pickler of the
    interpreter. That is why the import does not do it. Calling it again changes nothing. On 3.15
    and later it does nothing: pickle and copy take `frozendict` as it is. O(1).
    """
    if sys.version_info < (3, 15):
        copyreg.pickle(MappingProxyType, _reduce)


def _reduce(proxy: MappingProxyType[Any, Any]) -> tuple[Any, tuple[dict[Any, Any]]]:
    """Reduce a proxy to a call with a dict of its own, for pickle, copy and deepcopy."""
    return mapping_proxy, (dict(proxy),)


def mapping_proxy(mapping: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    """Rebuild a pickled mapping proxy.

    Pickles name this function, since the type itself has no importable name. So it must stay in
    this module.
    """
    return MappingProxyType(mapping)
