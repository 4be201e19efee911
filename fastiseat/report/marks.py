"""What a report says about the data behind its numbers."""


def data_mark(official: bool | None) -> str:
    """A clause for data that is not known to be the official release; empty for data that is."""
    if official:
        return ""
    return (
        ", NOT the official release's data" if official is False else ", data not verified as the official release"
    )
