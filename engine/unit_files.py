"""The files of one unit of work that lie on addresses, fetched and put."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from common.errors import UserError
from common.outcome import Outcome
from engine.remote import HEADER, StandIn, fetch, put


@dataclass
class UnitFiles:
    """By id, the addresses of images, of results and of further inputs; empty where they are paths of this machine.

    What is finished is found by the same checks as on one machine, on the results themselves and on the first bytes
    of the images, which tell their size. Images are fetched whole only where there is work.

    others    pairs of an id and an address
    troubles  by id, why a file could not be fetched
    """

    here: StandIn
    images: Mapping[str, str]
    results: Mapping[str, str]
    others: Sequence[tuple[str, str]] = ()
    troubles: dict[str, str] = field(default_factory=dict)

    def fetch_finished(self) -> None:
        """The results that are there, and what the check of them needs."""
        self._fetch(self.results)
        self._fetch({key: address for key, address in self.images.items() if self._has_result(key)}, HEADER)

    def fetch_inputs(self, ids: Collection[str]) -> None:
        """The images of these ids, whole."""
        self._fetch({key: address for key, address in self.images.items() if key in ids})

    def fetch_others(self) -> None:
        found = fetch([address for _, address in self.others], self.here)
        self.troubles |= {key: found[address] for key, address in self.others if address in found}

    def _fetch(self, wanted: Mapping[str, str], first_bytes: int | None = None) -> None:
        found = fetch(wanted.values(), self.here, first_bytes)
        self.troubles |= {key: found[address] for key, address in wanted.items() if address in found}

    def _has_result(self, key: str) -> bool:
        return key not in self.results or self.here.path(self.results[key]).is_file()

    def put(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """Put the results that were made. Outcomes name addresses; a result that could not be put is a failure."""
        told = [self._told(outcome) for outcome in outcomes]
        made = [outcome.id for outcome in told if outcome.status == "made" and outcome.id in self.results]
        try:
            put([self.results[key] for key in made], self.here)
        except UserError as error:
            return [replace(one, status="failed", reason=str(error)) if one.id in made else one for one in told]
        return told

    def _told(self, outcome: Outcome) -> Outcome:
        if outcome.status != "failed":
            return outcome
        return replace(outcome, reason=self.troubles.get(outcome.id) or self.here.told(outcome.reason))
