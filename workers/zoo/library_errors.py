"""What a library says of an error, as far as it is repeated to others."""


def first_line(error: BaseException, most: int = 200) -> str:
    """Return the first line of an error, or the name of its type: no listings, and no advice but our own.

    To be used where the words are what was found out, as of a constructor that refuses an argument. Of a connection or
    a store nothing is repeated: such words may show addresses and keys.
    """
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return line if len(line) <= most else f"{line[:most]}..."
