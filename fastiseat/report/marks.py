"""What a report says about the data behind its numbers."""


def data_mark(official: bool | None, *, verified: bool = True) -> str:
    """A clause for data that is not known to be the official release, and one for images that are not ``verified``:
    nobody compared them with what was prepared. Empty for data that is both.
    """
    unchecked = "" if verified else ", images NOT compared with what was prepared"
    if official:
        return unchecked
    release = (
        "NOT the official release's data" if official is False else "data not verified as the official release"
    )
    return f", {release}{unchecked}"
