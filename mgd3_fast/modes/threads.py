"""Linear algebra on one thread, so that results do not depend on how many there are.

scikit-learn adds up partial sums in the order its threads finish: centres differ in the last bits between
thread counts (9.5e-7 measured between one and two). Every fit runs on one thread, and `discover_modes` runs
several classes side by side instead.
"""

from __future__ import annotations

from contextlib import AbstractContextManager


def one_thread(user_api: str | None = None) -> AbstractContextManager[object]:
    """Hold OpenMP and BLAS at one thread; reaches only libraries that are loaded already.

    OpenMP's limit is the calling thread's. BLAS's is the process's: were it set in each fit alone, the first
    fit to end would lift it from the others.

    Args:
        user_api: "openmp" or "blas" to hold only one of them.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api=user_api)
    return limits
