"""The terms' gradient comes once to every optimizer step, whoever makes the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)


class StepWatch:
    """Sees the steps of all optimizers, also those that Lightning does not know of.

    Lightning announces most steps by `on_before_optimizer_step`, before clipping: `announce`.
    It announces none of an optimizer that is stepped by `optimizer.optimizer.step()`, or that
    another one owns, as in SAM: there `add` is called last, just before the step.

    Args:
        add: Adds gradients to the parameters of an optimizer.
        parameters: Returns the `id` of each parameter that gets gradients now.
    """

    def __init__(
        self, add: Callable[[Optimizer], None], parameters: Callable[[], set[int]]
    ) -> None:
        self._add = add
        self._parameters = parameters
        self._done: set[int] = set()  # parameters with both terms in their gradient
        self._handles: list[Any] = []

    def start(self) -> None:
        """Watch from now on."""
        self.stop()
        self._handles = [
            register_optimizer_step_pre_hook(self._before),
            register_optimizer_step_post_hook(self._after),
        ]

    def stop(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._done = set()

    def announce(self, optimizer: Optimizer) -> None:
        """Add the gradients for the step to come."""
        self._add(optimizer)
        self._done |= self._own(optimizer)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if not self._own(optimizer):
            return None
        # `args` begins with the optimizer itself
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._complete(optimizer)
            return None

        def evaluated() -> Any:
            self._done -= self._own(optimizer)
            result = closure()
            self._complete(optimizer)
            return result

        if len(args) > 1:
            return (args[0], evaluated, *args[2:]), kwargs
        return args, {**kwargs, "closure": evaluated}

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._done -= self._own(optimizer)

    def _complete(self, optimizer: Optimizer) -> None:
        if not self._own(optimizer) <= self._done:
            self.announce(optimizer)

    def _own(self, optimizer: Optimizer) -> set[int]:
        wanted = self._parameters()
        if not wanted:
            return wanted
        return wanted & {id(p) for group in optimizer.param_groups for p in group["params"]}
