"""The files of one unit of work that lie on addresses, copied here and back."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.errors import UserError
from common.outcome import Outcome
from engine.remote import Mirror, fetch, put


@dataclass
class UnitFiles:
    """Paths of images and results by id, and of further inputs; those in the mirror are copied from their addresses.

    Finished results are recognised by the same checks as on one machine, so they and their images are copied. Images
    without a result are copied only when they are processed.

    inputs  pairs of an id and a path
    errors  by id, why a file could not be copied
    """

    mirror: Mirror
    ids: Sequence[str]
    images: Mapping[str, Path]
    results: Mapping[str, Path]
    inputs: Collection[tuple[str, Path]] = ()
    errors: dict[str, str] = field(default_factory=dict)

    def fetch_inputs(self) -> None:
        self._fetch(self.inputs)

    def fetch_finished(self) -> None:
        """Fetch the results that exist, and their images."""
        self._fetch(self.results.items())
        self.fetch_images([key for key, path in self.results.items() if path.is_file()])

    def fetch_images(self, ids: Collection[str]) -> None:
        """Fetch the images of these ids that are not here yet."""
        self._fetch((key, self.images[key]) for key in ids if key in self.images and not self.images[key].is_file())

    def _fetch(self, paths: Iterable[tuple[str, Path]]) -> None:
        addresses = [(key, address) for key, path in paths if (address := self.mirror.address(path))]
        unreadable = fetch([address for _, address in addresses], self.mirror)
        self.errors |= {key: unreadable[address] for key, address in addresses if address in unreadable}

    def put(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """Put the results that were made. Outcomes name addresses; a result that could not be put is a failure."""
        results = []
        for outcome in outcomes:
            if outcome.status == "failed":
                reason = self.errors.get(outcome.id) or self.mirror.with_addresses(outcome.reason)
                outcome = replace(outcome, reason=reason)
            results.append(outcome)
        made = [outcome.id for outcome in results if outcome.status == "made" and outcome.id in self.results]
        try:
            put([address for key in made if (address := self.mirror.address(self.results[key]))], self.mirror)
        except UserError as error:
            return [replace(one, status="failed", reason=str(error)) if one.id in made else one for one in results]
        return results
