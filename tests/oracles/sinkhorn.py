"""Slow, obvious twins of the transport: log-domain Sinkhorn in float64, and feasibility as a linear program."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import linprog
from scipy.special import logsumexp

Array = np.ndarray[Any, np.dtype[Any]]


def log_domain(
    cost: Array, allowed: Array, masses: tuple[Array, Array], epsilon: float, iterations: int, tolerance: float = 0.0
) -> tuple[Array, int]:
    """The plan and how many iterations were made: rows first, then columns, until sum |change of f| < tolerance."""
    row_mass, column_mass = masses
    blocked = np.where(allowed, cost, np.inf)
    f, g = np.zeros(len(row_mass)), np.zeros(len(column_mass))
    done = 0
    while done < iterations:
        last = f
        f = epsilon * (np.log(row_mass) - logsumexp((g[None, :] - blocked) / epsilon, axis=1))
        g = epsilon * (np.log(column_mass) - logsumexp((f[:, None] - blocked) / epsilon, axis=0))
        done += 1
        if np.abs(f - last).sum() < tolerance:
            break
    return np.exp((f[:, None] + g[None, :] - blocked) / epsilon), done


def has_plan(allowed: Array, row_mass: float, column_mass: float) -> bool:
    """Whether any plan >= 0 has these row and column sums and is zero where it is not allowed to be positive."""
    places = [(i, j) for i, j in product(*map(range, allowed.shape)) if allowed[i, j]]
    sums = np.zeros((sum(allowed.shape), len(places)))
    for number, (i, j) in enumerate(places):
        sums[i, number] = sums[allowed.shape[0] + j, number] = 1
    wanted = [row_mass] * allowed.shape[0] + [column_mass] * allowed.shape[1]
    found = linprog(np.zeros(len(places)), A_eq=sums, b_eq=wanted, method="highs")
    return bool(found.status == 0)
