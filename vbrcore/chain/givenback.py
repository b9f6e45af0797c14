"""What keeping a chain in order did."""

import msgspec


class GivenBack(msgspec.Struct):
    """`moved_bytes`: stored bytes that were copied; what is shared by cloning is not moved.

    `live_bytes`: what the files take when all that is dead is given back, as far as it was looked for.
    """

    unlinked_files: int = 0
    punched_bytes: int = 0
    moved_bytes: int = 0
    freed_bytes: int = 0
    clone_calls: int = 0
    live_bytes: int = 0
    warnings: list[str] = []
