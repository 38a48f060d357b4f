"""The documentation says what the code does."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.null
@pytest.mark.torch
def test_the_compatibility_page_is_what_the_code_does():
    import triton

    if f"(Triton\n{triton.__version__})" not in (ROOT / "docs" / "compatibility.md").read_text():
        pytest.skip("the page is written with another Triton")
    result = subprocess.run([sys.executable, "-W", "ignore", str(ROOT / "docs" / "compatibility.py"), "--check"],
                            capture_output=True, text=True, cwd=ROOT / "docs")
    assert result.returncode == 0, result.stdout + result.stderr
