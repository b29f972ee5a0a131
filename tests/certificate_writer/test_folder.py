"""The folder of a certificate: radii in a form that the checker reads, and what is not replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from llcert.certificate_writer import open_folder
from llcert.certificate_writer.folder import exact
from llcert.errors import InvalidInput


@pytest.mark.parametrize(
    ("eps", "text"), [("36/255", "36/255"), (" 0.5 ", "0.5"), ("0.5/255", "1/510"), ("+1", "1"), ("1e-3", "1e-3")]
)
def test_eps_stays_the_number_it_is(eps: str, text: str) -> None:
    assert exact(eps) == text


def test_folders_that_hold_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("text")
    for resume, overwrite in ((False, False), (True, False), (False, True)):
        with pytest.raises(InvalidInput, match="--proof"):
            open_folder(tmp_path, resume=resume, overwrite=overwrite)
    with pytest.raises(InvalidInput, match="not a folder"):
        open_folder(tmp_path / "thesis.tex", resume=False, overwrite=False)
    assert (tmp_path / "thesis.tex").exists()
