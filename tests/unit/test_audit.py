"""The look for vulnerable dependencies: what it could not find out it does not call sound."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/audit.py"
KNOWN = {"name": "urllib3", "version": "1.24", "vulns": [{"id": "CVE-2019-11324"}]}
SOUND = {"name": "orjson", "version": "3.13.0", "vulns": []}
VULNERABLE = {"name": "yarl", "version": "1.25.1", "vulns": [{"id": "PYSEC-1"}, {"id": "PYSEC-2"}]}
SKIPPED = {"name": "motor", "skip_reason": "not found"}

FAKE = """#!{python}
import sys
requirements = open(sys.argv[sys.argv.index("--requirement") + 1]).read()
answers = {answers!r}
answer = answers[0] if requirements.startswith("urllib3==1.24") else answers[1]
sys.stderr.write("WARNING: of no concern\\nConnectionError: no way out\\n")
sys.stdout.write(answer)
"""


def audit(tmp_path: Path, canary: str, others: str) -> subprocess.CompletedProcess[str]:
    """The script, with a pip-audit that answers this."""
    fake = tmp_path / "pip-audit"
    fake.write_text(FAKE.format(python=sys.executable, answers=[canary, others]))
    fake.chmod(0o700)
    environment = os.environ | {"PIP_AUDIT": str(fake)}
    return subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def report(*packages: Any) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


@pytest.mark.parametrize(
    ("canary", "others", "code", "said"),
    [
        (report(KNOWN), report(SOUND, SOUND), 0, "no vulnerability is known of the 2 pinned dependencies"),
        (report(KNOWN), report(SOUND, VULNERABLE), 1, "yarl 1.25.1 is vulnerable: PYSEC-1, PYSEC-2"),
        (report(KNOWN), report(SKIPPED, VULNERABLE), 1, "yarl 1.25.1 is vulnerable"),
        (report(KNOWN), report(SOUND, SKIPPED), 2, "NOT CHECKED for known vulnerabilities: motor"),
        (report(KNOWN), report(), 2, ""),
        (report(KNOWN), "", 2, "NOT CHECKED for known vulnerabilities: pip-audit gave up: ConnectionError: no way out"),
        # A service that knows nothing finds nothing wrong with anything.
        (report(SKIPPED), report(SOUND), 2, "it knows nothing of urllib3==1.24"),
        (report(KNOWN | {"vulns": []}), report(SOUND), 2, "it knows nothing of urllib3==1.24"),
        ("", "", 2, "pip-audit gave up"),
    ],
)
def test_what_is_found(tmp_path: Path, canary: str, others: str, code: int, said: str) -> None:
    """Given answers of pip-audit, when dependencies are audited, then 0 means that all are known to be sound."""
    done = audit(tmp_path, canary, others)
    assert done.returncode == code, done
    assert said in done.stdout + done.stderr
    assert ("no vulnerability is known" in done.stdout) == (code == 0)


def test_without_pip_audit(tmp_path: Path) -> None:
    """Given no pip-audit, when dependencies are audited, then it says that it did not check."""
    environment = os.environ | {"PIP_AUDIT": str(tmp_path / "none")}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "NOT CHECKED for known vulnerabilities: pip-audit cannot be run" in done.stderr
