"""docs/transactions.md: its program and its command are run as they stand there, and say what the page says."""

import re
from pathlib import Path

import orjson
from support.service import Service
from support.shell import in_python, in_shell

from holdfast.events.limits import MAX_OPERATIONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/transactions.md").read_text(encoding="utf-8")


def test_the_examples_of_the_page(service: Service, tmp_path: Path) -> None:
    """Given a running service, when the page's examples are run one after the other, then each does what it says."""
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (command,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    assert in_python(program, service.amqp_url, tmp_path).splitlines() == [
        "[('account/ada', 2), ('account/bob', 2), ('account/ada/frozen', 0)]",
        "operation 1, account/ada: etag_mismatch, it is 70",
        "150",
    ]
    saved, checked = map(orjson.loads, in_shell(command, service.amqp_url, tmp_path).splitlines())
    assert (saved["key"], saved["version"], saved["changed"]) == ("account/eve", 1, True)
    assert (checked["key"], checked["version"]) == ("account/ada", 2)


def test_the_numbers_of_the_page() -> None:
    """Given the page's limits, when they are compared with the code's, then they are the same."""
    assert f"At most {MAX_OPERATIONS} steps" in PAGE
    assert "transactionLifetimeLimitSeconds=5" in (ROOT / "compose.yaml").read_text()
