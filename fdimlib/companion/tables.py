"""The tables behind figures: several panels in one, and numbers without rounding noise."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray


def panels(**tables: pd.DataFrame) -> pd.DataFrame:
    """What several panels show, one below the other; the column `panel` tells them apart.

    >>> panels(left=pd.DataFrame({"n": [1]}), right=pd.DataFrame({"n": [2], "rank": [3]}))
       panel  n  rank
    0   left  1   NaN
    1  right  2   3.0
    """
    named = [table.assign(panel=name)[["panel", *table.columns]] for name, table in tables.items()]
    return pd.concat(named, ignore_index=True)


def without_noise(values: ArrayLike, size: float) -> NDArray[np.float64]:
    """The same numbers, with 0 for those below `size`, which only rounding has made.

    >>> without_noise([0.5, -1e-17], 1e-12).tolist()
    [0.5, 0.0]
    """
    numbers = np.asarray(values, dtype=float)
    return np.where(abs(numbers) < size, 0.0, numbers)
