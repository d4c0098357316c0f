"""docs/history.md: its programs and commands are run as they stand there, and say what the page says."""

import re
from pathlib import Path

from support.service import Service
from support.shell import in_python, in_shell

from holdfast.config import read_config
from holdfast.stores import RetentionConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/history.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_programs_and_commands_of_the_page(service: Service, tmp_path: Path) -> None:
    """Given a running service, when the page's examples are run one after the other, then each does what it says."""
    what_happened, which_keys = blocks("python")
    on_history, on_keys, on_purge = blocks("sh")

    assert in_python(what_happened, service.amqp_url, tmp_path).splitlines() == [
        "1 saved signup holdfast request-1",
        "2 saved rename holdfast None",
        "3 deleted by mistake holdfast None",
        "last: deleted",
        "lately: 3",
        "between: 2 {'name': 'Ada L.'}",
        "version 1: {'name': 'Ada'}",
        "at that time: 1",
        "restored as version 4 {'name': 'Ada L.'}",
    ]
    lines = in_shell(on_history, service.amqp_url, tmp_path).splitlines()
    assert [line.split()[:2] for line in lines[3:5]] == [["2", "saved"], ["1", "saved"]]
    assert '"version":2' in lines[5]
    assert '"value":{"name":"Grace"}' in lines[6]
    assert lines[7] == "exit code 2: it was absent"
    assert '"version":3,"restored":1' in lines[8]

    assert in_python(which_keys, service.amqp_url, tmp_path).splitlines() == [
        "249",
        "['order/000', 'order/001', 'order/002'] order/002",
        "['order/003', 'order/004', 'order/005'] 1",
        "100",
    ]
    lines = in_shell(on_keys, service.amqp_url, tmp_path).splitlines()
    assert lines[:3] == ["249", "order/248", "order/249"]
    assert lines[3].startswith('{"key":"order/000","etag":"1-')

    lines = in_shell(on_purge, service.amqp_url, tmp_path).splitlines()
    assert lines[1] == '{"key":"user/44","purged":true}'
    assert [line.split()[:2] for line in lines[3:5]] == [["1", "saved"], ["2", "purged"]]
    assert lines[3].endswith("(erased)")
    assert lines[5] == "exit code 1: erased"


def test_the_configuration_of_the_page(tmp_path: Path) -> None:
    """Given the page's configuration file, when it is read, then it says what the page says."""
    (toml,) = blocks("toml")
    path = tmp_path / "holdfast.toml"
    path.write_text(toml)
    assert read_config(path).stores["default"].retention == RetentionConfig(versions=10, days=30, forget_days=60)
    defaults = RetentionConfig(versions=1)
    assert f"{defaults.forget_days:g} if it is not given, 7 at least" in toml
    assert defaults.interval_seconds == 600
    assert "ten minutes (`interval_seconds`)" in PAGE
