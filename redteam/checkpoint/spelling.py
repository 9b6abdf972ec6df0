"""How a file's tensors are named here, and back: renamed one by one, or taken out of a stack and put into it again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from redteam.checkpoint.lazy import Computed, Renamed
from redteam.checkpoint.naming import Frame, Piece, Place, frame_of
from redteam.checkpoint.safetensors_io import shown
from redteam.checkpoint.tensors import Tensors
from redteam.errors import NotACheckpoint

if TYPE_CHECKING:
    from redteam.checkpoint.sources import Source


@dataclass(frozen=True)
class Spelling:
    """How the tensors of a file are named here.

    Attributes:
        names: Name here → name in the file.
        pieces: Name here → which part of a tensor in the file it is.
    """

    names: Mapping[str, str]
    pieces: Mapping[str, Piece]

    def here(self, held: Tensors) -> Source:
        """The file's tensors under the names that they have here."""
        plain = Renamed(held, self.names)
        if not self.pieces:
            return plain

        def read(name: str) -> torch.Tensor:
            if name in self.names:
                return plain.load(name)
            piece = self.pieces[name]
            return held.part(piece.file, piece.index)[0, piece.start : piece.stop].clone()

        outline = {name: (plain.shape(name), plain.dtype(name)) for name in self.names}
        for name, piece in self.pieces.items():
            outline[name] = ((piece.stop - piece.start, *held.shape(piece.file)[2:]), held.dtype(piece.file))
        return Computed(outline, read)

    def there(self, made: Tensors) -> Source:
        """What was made of them, under the file's names."""
        rows: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
        for name, piece in sorted(self.pieces.items(), key=lambda item: item[1].start):
            rows[piece.file][piece.index].append(name)
        plain = Renamed(made, {self.names.get(name, name): name for name in made if name not in self.pieces})
        if not rows:
            return plain

        def read(name: str) -> torch.Tensor:
            if name not in rows:
                return plain.load(name)
            whole = torch.empty(outline[name][0], dtype=outline[name][1])
            for index, parts in rows[name].items():
                torch.cat([made[part] for part in parts], out=whole[index])
            return whole

        outline = {name: (plain.shape(name), plain.dtype(name)) for name in plain.names()}
        for name, parts in rows.items():
            shapes = [made.shape(part) for part in parts[0]]
            whole = (len(parts), sum(shape[0] for shape in shapes), *shapes[0][1:])
            outline[name] = (whole, made.dtype(parts[0][0]))
        return Computed(outline, read)


def spelling(checkpoint: Tensors, frame: Frame) -> Spelling | None:
    """How a file's tensors are called under the names by which transformers saves a network; None if as in the file.

    Raises:
        NotACheckpoint: If it holds one tensor twice, under two names.
    """
    places = frame.places(checkpoint)
    filled = {place.parameter for place in places.values()}
    names: dict[str, str] = {}
    pieces: dict[str, Piece] = {}
    for name in checkpoint:
        place = places.get(name)
        if place is None:
            names.setdefault(name, name)
            continue
        twins = frame.twins.get(place.parameter, ())
        if twins and len(filled & set(twins)) == 1 and Place(twins[0]) in frame.saved:
            place = Place(twins[0])  # a tied head that is stored in place of the embedding
        stacked = {} if place in frame.saved else frame.pieces(name, place, checkpoint.shape(name))
        for here in stacked or (frame.saved[place][0] if place in frame.saved else name,):
            if here in names or here in pieces:
                other = names.get(here) or pieces[here].file
                raise NotACheckpoint(
                    f"one tensor is there twice, as {shown(other)} and as {shown(name)}, of which loaders take either; "
                    "take one of them out of the file."
                )
            if stacked:
                pieces[here] = stacked[here]
            else:
                names[here] = name
    same = not pieces and all(here == name for here, name in names.items())
    return None if same else Spelling(names, pieces)


def require_once(checkpoint: Tensors, where: str) -> None:
    """Refuses a checkpoint that holds a tensor of its network twice, under two names of which loaders take either.

    Raises:
        NotACheckpoint: In this case.
    """
    names = set(checkpoint)
    shorter = (".".join(words[k:]) for name in names if (words := name.split(".")) for k in range(1, len(words)))
    if not names.isdisjoint(shorter) and (frame := frame_of(checkpoint)) is not None:
        try:
            spelling(checkpoint, frame)
        except NotACheckpoint as error:
            raise NotACheckpoint(f"{where}: {error}") from None
