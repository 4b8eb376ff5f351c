"""`tle doctor`."""

import tle
from tle.cli.output import Json, print_json, print_table


def doctor(*, json: Json = False) -> None:
    """Show what this machine has, and what is missing, with the command that brings it."""
    findings = tle.examine()
    if json:
        print_json([{"what": item.what, "state": item.state, "found": item.found} for item in findings])
    else:
        print_table([(item.state, item.what, item.found) for item in findings])
