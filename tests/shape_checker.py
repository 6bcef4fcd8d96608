"""What checks types and shapes while the unit tests run (not with STEER_CHECK_SHAPES=0): beartype.

An int is a float too, as for every type checker. So are numbers out of arrays: code that takes an int takes them as
well, and static types cannot tell them apart.
"""

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

NUMBERS = FrozenDict({int: int | np.integer, float: float | int | np.integer | np.floating})

check = beartype(conf=BeartypeConf(hint_overrides=NUMBERS))
