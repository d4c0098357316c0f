"""Looks for known vulnerabilities of the dependencies that constraints.txt pins.

Exit codes: 0 none is known, 1 there are some, 2 it could not be found out. The third is not the first: pip-audit calls
a package that the vulnerability service does not know "skipped", and is content. So a version whose vulnerabilities
are well known is asked for first; if they are not found, nothing else would be.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PINS = Path(__file__).parents[1] / "constraints.txt"
#: Has had vulnerabilities on record since 2019.
CANARY = "urllib3==1.24"
TIMEOUT_SECONDS = 300


class NotCheckedError(Exception):
    """What is known of the dependencies could not be found out."""


def audit(requirements: Path) -> list[dict[str, Any]]:
    """What pip-audit says of each pinned package.

    :raises NotCheckedError: if it says nothing usable.
    """
    program = os.environ.get("PIP_AUDIT") or str(Path(sys.executable).with_name("pip-audit"))
    command = [program, "--requirement", str(requirements), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        raise NotCheckedError(f"pip-audit took more than {TIMEOUT_SECONDS} s") from None
    except OSError as missing:
        raise NotCheckedError(f"pip-audit cannot be run: {missing.strerror}") from None
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise NotCheckedError(f"pip-audit gave up: {last[:200]}") from None
    return found


def audit_with_canary() -> list[dict[str, Any]]:
    """What is known of all that is pinned, if anything can be known.

    :raises NotCheckedError: if not.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(f"{CANARY}\n")
        file.flush()
        canary = audit(Path(file.name))
    if not any(package.get("vulns") for package in canary):
        raise NotCheckedError(f"the vulnerability service cannot be asked, for it knows nothing of {CANARY}")
    return audit(PINS)


def run() -> int:
    """Check, and say what came of it."""
    try:
        packages = audit_with_canary()
    except NotCheckedError as reason:
        print(f"audit: NOT CHECKED for known vulnerabilities: {reason}", file=sys.stderr)
        return 2
    vulnerable = [package for package in packages if package.get("vulns")]
    for package in vulnerable:
        known = ", ".join(each["id"] for each in package["vulns"])
        print(f"audit: {package['name']} {package['version']} is vulnerable: {known}", file=sys.stderr)
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if skipped:
        print(f"audit: NOT CHECKED for known vulnerabilities: {', '.join(skipped)}", file=sys.stderr)
    if vulnerable:
        return 1
    if skipped or not packages:
        return 2
    print(f"audit: no vulnerability is known of the {len(packages)} pinned dependencies")
    return 0


if __name__ == "__main__":
    sys.exit(run())
