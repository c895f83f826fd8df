"""A training step whose compilation is told apart from its work."""

from typing import Any

from ddpm_jax.runtime.ledger import Ledger


class CompiledStep:
    """A jitted step; what its first call takes to compile is in the ledger as "compile".

    Attributes:
      memory: what the compiler says of the program, jax's CompiledMemoryStats of one device; None
        before the first call, and where nothing says it.
    """

    def __init__(self, step: Any, ledger: Ledger):
        self._step = step
        self._ledger = ledger
        self._compiled = False
        self.memory: Any = None

    def __call__(self, *args: Any) -> Any:
        if self._compiled:
            return self._step(*args)
        self._compiled = True
        with self._ledger.phase("compile"):
            if hasattr(self._step, "lower"):
                # The call below finds this program and compiles nothing.
                self.memory = self._step.lower(*args).compile().memory_analysis()
            return self._step(*args)
