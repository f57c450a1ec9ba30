"""Imports llama-cpp-python's low-level bindings alone, when it is imported before anything else that does.

The package also imports its high-level classes. Nothing here uses them, and they import numpy and diskcache: a third of
the processor time of a worker's start, and 14 MB of its memory.
"""

import sys
from types import ModuleType

_HIGH_LEVEL = "llama_cpp.llama"

if "llama_cpp" not in sys.modules:
    sys.modules[_HIGH_LEVEL] = ModuleType(_HIGH_LEVEL)
    try:
        import llama_cpp  # noqa: F401
    finally:
        del sys.modules[_HIGH_LEVEL]
