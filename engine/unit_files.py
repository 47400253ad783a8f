"""The files of one unit of work that lie on addresses, fetched and put."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.errors import UserError
from common.outcome import Outcome
from engine.remote import StandIn, fetch, put


@dataclass
class UnitFiles:
    """By id, the paths of images, of results and of further inputs; those that stand in for addresses are fetched.

    What is finished is found by the same checks as on one machine, on the results and the images themselves. Of images
    without a result only those are fetched that are worked on.

    inputs    pairs of an id and a path
    troubles  by id, why a file could not be fetched
    """

    here: StandIn
    ids: Sequence[str]
    images: Mapping[str, Path]
    results: Mapping[str, Path]
    inputs: Collection[tuple[str, Path]] = ()
    troubles: dict[str, str] = field(default_factory=dict)

    def fetch_inputs(self) -> None:
        self._fetch(self.inputs)

    def fetch_finished(self) -> None:
        """The results that are there, and the images that they were made of."""
        self._fetch(self.results.items())
        self.fetch_images([key for key, path in self.results.items() if path.is_file()])

    def fetch_images(self, ids: Collection[str]) -> None:
        """The images of these ids, but for those that are here already."""
        self._fetch((key, self.images[key]) for key in ids if key in self.images and not self.images[key].is_file())

    def _fetch(self, wanted: Iterable[tuple[str, Path]]) -> None:
        addresses = [(key, address) for key, path in wanted if (address := self.here.address(path))]
        unread = fetch([address for _, address in addresses], self.here)
        self.troubles |= {key: unread[address] for key, address in addresses if address in unread}

    def put(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """Put the results that were made. Outcomes name addresses; a result that could not be put is a failure."""
        ended = [self._with_addresses(outcome) for outcome in outcomes]
        made = [outcome.id for outcome in ended if outcome.status == "made" and outcome.id in self.results]
        try:
            put([address for key in made if (address := self.here.address(self.results[key]))], self.here)
        except UserError as error:
            return [replace(one, status="failed", reason=str(error)) if one.id in made else one for one in ended]
        return ended

    def _with_addresses(self, outcome: Outcome) -> Outcome:
        if outcome.status != "failed":
            return outcome
        return replace(outcome, reason=self.troubles.get(outcome.id) or self.here.told(outcome.reason))
