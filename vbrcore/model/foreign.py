"""What comes from outside: bounds that everything of it keeps to, and what reading it may raise."""

from typing import Final

import msgspec

# All that msgspec raises for bytes that are not what they should be: also where text is no UTF-8, or nested too deep.
UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

# Numbers that count or order (runs, points, commits) lie below; nothing that counts up from one can get there.
NUMBERS_END: Final = 1 << 62
# Moments, in seconds since the epoch: up to the year 6325, so that calendars can hold them in any time zone.
MOMENTS_END: Final = float(1 << 37)
