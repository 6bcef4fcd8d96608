"""What checks types and shapes while the unit tests run (STEER_CHECK_SHAPES=1): beartype, an int is a float too."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
