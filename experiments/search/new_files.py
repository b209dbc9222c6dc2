"""Which of the new files must be encoded: those whose content is not known, each once, whatever their names.

Before: `folder`, which says what is new; after: `encoding`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from experiments.search.catalog import Catalog
from experiments.search.folder import Scan, content_of
from experiments.search.manifest import ManifestEntry


class NewFiles:
    """New files of an index, told apart by their content."""

    def __init__(self, catalog: Catalog, found: Scan, known: dict[str, ManifestEntry]) -> None:
        self._catalog, self._found = catalog, found
        self._known = known
        """By content."""
        self._first: dict[str, str] = {}
        """The first name of each content that must be encoded."""
        self._copies: list[tuple[str, ManifestEntry]] = []
        """Other files of these contents."""

    def unknown(self, names: list[str]) -> Iterator[tuple[str, ManifestEntry]]:
        """Yield the files to encode, with what is known of them; those of a known content are added."""
        for name in names:
            try:
                content = content_of(self._catalog.folder / name)
            except OSError as error:
                self._catalog.note_problem(name, error.strerror or str(error))
                continue
            entry = ManifestEntry(state=self._found.files[name], content=content)
            if (known := self._known.get(content)) is not None:
                self._catalog.add_same(name, dataclasses.replace(known, state=entry.state))
            elif content in self._first:
                self._copies.append((name, entry))
            else:
                self._first[content] = name
                yield name, entry

    def add_copies(self) -> None:
        """Add the other files of what has been encoded."""
        for name, entry in self._copies:
            first = self._first[entry.content]
            if (problem := self._catalog.problems.get(first)) is not None:
                self._catalog.note_problem(name, problem)
            else:
                known = self._catalog.known(first)
                self._catalog.add_same(name, dataclasses.replace(known, state=entry.state))
