"""The certificate folder that `--proof` asks for, written while a run goes on (docs/certificate.md)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llcert.certificate_writer import Folder, open_folder
from llcert.certification import Assurance, BatchResult, Radii, Verdict
from llcert.errors import InvalidInput
from llcert.machine.versions import VERSION
from llcert.options import Options
from llcert.runs.identity import OF_OPTIONS
from llcert.runs.prepare import Certification
from llcert.runs.records import BatchOutcome

_STATED = ("eps", "radii_sha256", "claim", "semantics", "data", "split", "samples")
"""Keys of a run's identity that a certificate states in fields of their own."""


@dataclass(frozen=True)
class RunCertificate:
    """The certificate of a run, batch by batch. Make one with `open`; `begin` comes before the first batch."""

    folder: Folder

    @staticmethod
    def open(path: Path, options: Options, *, resume: bool, overwrite: bool) -> RunCertificate:
        """Raises InvalidInput where the folder may not be written to, and for options of which there is no evidence."""
        if options.assurance not in (None, Assurance.DETERMINISTIC.value):
            raise InvalidInput(f"--proof needs --assurance deterministic, not {options.assurance}")
        return RunCertificate(open_folder(path, resume=resume, overwrite=overwrite))

    def begin(self, certification: Certification) -> None:
        """Writes the network, and a certificate without images, or with those of the run that goes on."""
        assert certification.graph is not None, "no evidence is kept"
        subject, identity = certification.subject, certification.identity
        about = {
            "llcert": VERSION,
            "model": {
                "name": Path(subject.model).name,
                "sha256": subject.model_sha256,
                "weights_sha256": subject.weights_sha256,
            },
            "source": {
                "data": subject.data,
                "split": subject.split,
                "selection": subject.selection,
                "sha256": identity["data_sha256"],
            },
            "settings": {key: identity[key] for key in OF_OPTIONS if key not in _STATED},
        }
        eps = subject.settings.eps if isinstance(subject.settings.eps, Radii) else subject.eps_text
        self.folder.begin(
            certification.graph,
            eps=eps,
            semantics=subject.settings.semantics.value,
            about=about,
            specification=subject.settings.specification,
            within=subject.settings.within,
        )

    def require(self, results: Iterable[BatchResult]) -> None:
        """Raises InvalidInput where the evidence of a certified image is not in the folder."""
        for sample in (s for result in results for s in result.samples if s.verdict is Verdict.CERTIFIED):
            if not self.folder.holds(sample.index):
                raise InvalidInput(
                    f"--proof {self.folder.path}: does not hold image {sample.index}, which the run in --out has "
                    "certified already; give --proof the folder that holds it, or start both again with --overwrite"
                )

    def add(self, outcome: BatchOutcome) -> None:
        """Writes the evidence of a batch's certificates. Raises InvalidInput as `require` does."""
        for sample in outcome.result.samples:
            if sample.verdict is Verdict.CERTIFIED and sample.index in outcome.evidence:
                self.folder.add(sample.index, outcome.evidence[sample.index])
        self.folder.commit()
        self.require([outcome.result])
