"""The coded samples of a rectangle of pixels, and which coder suits them: the model, or a general one (stored.py).

Samples are uint8 or uint16 [height, width, channels] here, each below 2 ** depth: 1 or 3 colours, and alpha or padding
if there are 2 or 4 channels. Alpha is a gray picture of its own, and so are the low bits of 16-bit samples; or all is
stored in one piece, where that is smaller. The result is a Container without header.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ardmzip import stored
from ardmzip.codes import NO_CODE, QUICK, Search
from ardmzip.container import NO_MODEL, Container, LowBits, pack_body
from ardmzip.errors import FormatError, ImageError, OptionError
from ardmzip.image import interleaved, to_planes, turned, turns

if TYPE_CHECKING:
    from ardmzip.learning import Gain
    from ardmzip.model import Model
    from ardmzip.network import Backend

Progress = Callable[[float], None]

#: Images of fewer sub-pixels are coded without learning if it does not pay. Larger ones have so much to learn that
#: finding out is not worth the time.
TRIAL = 1 << 18

#: A payload of so many bytes, and one for each so many sub-pixels, leaves nothing to gain: the network is not asked.
_NOTHING, _NEXT_TO_NOTHING = 48, 4096

# When to look closer. A network that learns from a screenshot makes files of at least 0.65 of the estimate, and the
# best general coder makes them of at least 0.7 of the quick one. Photographs are nowhere near these bounds.
#: A quick payload of less than this share of the estimate: the best general coder is tried before the network ...
_LIKELY = 0.8
#: ... which is not asked at all if that gives less than this share.
_SURE = 0.65
#: A quick payload of more than this times the estimate, or the coded size: general coders are hopeless.
_HOPELESS_BY_ESTIMATE, _HOPELESS_BY_SIZE = 1.05, 1.3


@dataclass
class Encoder:
    """How to code, and the model and back end for it, loaded when they are first needed: what is stored needs neither.

    The options are those of api.compress. All parts of a file share one model: the given one, or else the installed one
    that suits the first part, or the tile in the middle; efforts from 1 on may take a relative of it
    (choice.RELATIVES).
    """

    model: Model | None = None
    steps: int | None = None
    learn: bool | None = None
    batches: int | None = None
    device: str = "auto"
    backend: str = "auto"
    #: Takes the code lengths of batches, and what learning brings, if they are to be measured.
    gains: list[Gain] | None = None
    #: Of the lattice (order.py), the same for all parts of a file.
    phase: tuple[int, int] = (0, 0)
    #: Threads to work on; None: as many as torch is set to.
    threads: int | None = None
    #: Side information of RGB pictures, in place of what is measured.
    side: np.ndarray | None = None
    #: How pictures that name codes are laid out (image.turned).
    turn: int = 0
    #: How codes are chosen for small images.
    search: Search = QUICK
    #: Differences of models that an archive brings with it: what comes out is taken in place of installed models.
    brought: tuple[bytes, ...] = ()
    _loaded: tuple[Model, Backend] | None = field(default=None, init=False)

    def network(self, planes: np.ndarray, stats: np.ndarray | None = None) -> tuple[Model, Backend]:
        """Model and back end, by the planes of the file's first part. stats: as for codec.encode."""
        from ardmzip import choice, network

        if self._loaded is None:
            known = choice.candidates(self.brought) if self.model is None else [self.model]
            chosen = network.backend(self.device, self.backend)
            self._loaded = choice.best_model(planes, known, chosen, self.phase, stats), chosen
        return self._loaded

    def fork(self, threads: int) -> Encoder:
        """One for a tile, with the same model and back end, that may work beside others on so many threads."""
        forked = replace(self, gains=None if self.gains is None else [], threads=threads)
        forked._loaded = self._loaded
        return forked

    def with_model(self, model: Model, side: np.ndarray | None, turn: int) -> Encoder:
        """One that codes the same with another model and side information, turned, and counts its gains for itself."""
        forked = replace(self, gains=None if self.gains is None else [], side=side, turn=turn)
        forked._loaded = model, self.loaded()[1]
        return forked

    @property
    def may_change_model(self) -> bool:
        """Whether a file may be coded by another installed model than the one that was chosen."""
        return self.model is None and not self.brought

    def change_model(self, model: Model) -> None:
        """Code with another model from now on."""
        self._loaded = model, self.loaded()[1]

    def loaded(self) -> tuple[Model, Backend]:
        """Model and back end that were used."""
        assert self._loaded is not None, "nothing was coded by a model"
        return self._loaded

    def encode(
        self, samples: np.ndarray, depth: int, progress: Progress | None = None, forced: bool = False,
        rival: int | None = None,
    ) -> Container:  # fmt: skip
        """The body of samples. forced: let the model code the colours, unless that takes more room than raw storage.
        rival: bytes that the body has to beat, as the samples can be coded otherwise too.
        """
        channels = samples.shape[2]
        if channels % 2 and depth <= 8:
            return self._single(samples, depth, progress, forced, rival)
        gained = len(self.gains or [])
        whole = stored.raw(samples, depth) if forced else stored.quick(samples, depth)
        rival = len(whole) if rival is None else min(rival, len(whole))
        if channels % 2:
            apart = self._by_bits(samples, progress, forced, rival)
        else:
            done = (channels - 1) / channels
            colours = self.encode(samples[:, :, :-1], depth, share_of(progress, 0, done), forced, rival)
            alpha = self.encode(samples[:, :, -1:], depth, share_of(progress, done, 1))
            apart = replace(colours, alpha=alpha)
        size = len(pack_body(apart))
        if not forced and len(whole) < _HOPELESS_BY_SIZE * size:
            whole = min(stored.smallest(samples, depth), whole, key=len)
        return self._smaller(apart, self._stored(samples, whole), gained)

    def _by_bits(self, samples: np.ndarray, progress: Progress | None, forced: bool, rival: int) -> Container:
        """The body of 16-bit samples, 8 bits first."""
        count, shift = _significant_bits(samples)
        high = high_bits(samples)
        low = (samples >> np.uint16(shift) & np.uint16((1 << count) - 1)).astype(np.uint8)
        main = self.encode(high, 8, share_of(progress, 0, 0.5), forced, rival)
        relative = count == 8 and len(stored.quick(low - high, 8)) < len(stored.quick(low, 8))
        if relative:
            low = low - high
        body = self.encode(low, count, share_of(progress, 0.5, 1)) if count else None
        return replace(main, low=LowBits(count, shift, relative, body))

    def _single(
        self, samples: np.ndarray, depth: int, progress: Progress | None, forced: bool, rival: int | None
    ) -> Container:  # fmt: skip
        """The body of 1 or 3 channels of at most 8 bits."""
        if self.model is not None and self.model.random_order:
            return self._at_random(samples, depth, progress, forced)
        gained = len(self.gains or [])
        if forced:
            planes = to_planes(samples)
            coded = self._coded(planes, progress, None, self._code(planes, *self.network(planes)))
            return self._smaller(coded, self._stored(samples, stored.raw(samples, depth)), gained)
        quick = stored.quick(samples, depth)
        bound = len(quick) if rival is None else min(rival, len(quick))
        if depth < 8 or _is_next_to_nothing(quick, samples):
            return self._stored(samples, min(stored.smallest(samples, depth), quick, key=len))
        from ardmzip import choice, codec

        planes = to_planes(samples)
        stats = codec.statistics(planes, self.phase)
        loaded, backend = self.network(planes, stats)
        code = self._code(planes, loaded, backend)
        estimate = choice.estimated_bytes(planes, loaded, backend, self.phase, stats=stats, code=code)
        by_model = partial(self._coded, planes, progress, stats, code)
        return self._chosen(samples, depth, quick, bound, estimate, by_model, gained)

    def _chosen(
        self, samples: np.ndarray, depth: int, quick: bytes, bound: int, estimate: float, code: Callable[[], Container],
        gained: int = 0,
    ) -> Container:  # fmt: skip
        """The body by the model, which ``code`` gives, or by a general coder. quick: a payload that is made at once;
        bound: bytes that the body has to beat; estimate: about how many the model will need."""
        if bound < _LIKELY * estimate:
            best = min(stored.smallest(samples, depth), quick, key=len)
            if min(len(best), bound) < _SURE * estimate:
                return self._stored(samples, best)
            return self._smaller(code(), self._stored(samples, best), gained)
        coded = code()
        if bound < _HOPELESS_BY_ESTIMATE * estimate and len(quick) < _HOPELESS_BY_SIZE * len(pack_body(coded)):
            quick = min(stored.smallest(samples, depth), quick, key=len)
        return self._smaller(coded, self._stored(samples, quick), gained)

    def _at_random(self, samples: np.ndarray, depth: int, progress: Progress | None, forced: bool) -> Container:
        """The same for a model that codes in a random order: it is for RGB, and does not learn."""
        from ardmzip.ardm import codec
        from ardmzip.ardm.model import require

        assert self.model is not None
        gray = samples.shape[2] == 1
        if gray and forced:
            raise ImageError(f"model {self.model.name} codes RGB images, not gray ones")
        if self.learn or self.batches is not None:
            raise OptionError(f"model {self.model.name} codes in a random order and does not learn")
        other = self._stored(samples, stored.raw(samples, depth) if forced else stored.smallest(samples, depth))
        if gray:
            return other
        planes = to_planes(samples)
        loaded, backend = self.network(planes)
        order = codec.choose_order(samples.shape[0], samples.shape[1], require(loaded), self.steps)
        coded = codec.encode(planes, require(loaded), backend, order, progress, self.threads, self.phase)
        return self._smaller(replace(coded, pixel_crc=None), other, len(self.gains or []))

    def _smaller(self, coded: Container, other: Container, gained: int) -> Container:
        """The smaller of two bodies, the first of equals; the other one throws away what is in ``gains`` from
        ``gained`` on."""
        if len(pack_body(coded)) <= len(pack_body(other)):
            return coded
        if self.gains is not None:
            del self.gains[gained:]
        return other

    def _coded(self, planes: np.ndarray, progress: Progress | None, stats: np.ndarray | None, code: int) -> Container:
        """The body that the model codes. stats, code: as for codec.encode."""
        from ardmzip import codec

        loaded, backend = self.network(planes, stats)
        learn = self._learns(loaded)
        side = self.side if len(planes) == 3 else None
        turn = 0 if code == NO_CODE else self._turn(planes)
        doubtful = learn and (planes.size < TRIAL or self.steps is not None or self.batches is not None)
        found: list[Gain] | None = [] if doubtful or self.gains is not None else None
        coded = codec.encode(
            planes, loaded, backend, self.steps, progress, learn=learn, batches=self.batches, gains=found,
            phase=self.phase, threads=self.threads, side=side, stats=stats, code=code, turn=turn,
        )  # fmt: skip
        if doubtful and found:
            planned = len(pack_body(coded)) - len(pack_body(replace(coded, batch_ends=None)))
            if 8 * planned + sum(gain.learned - gain.frozen for gain in found) > 0:
                found = None if self.gains is None else []
                coded = codec.encode(
                    planes, loaded, backend, self.steps, learn=False, gains=found, phase=self.phase,
                    threads=self.threads, side=side, stats=stats, code=code, turn=turn,
                )  # fmt: skip
        if self.gains is not None and found:
            self.gains.extend(found)
        return replace(coded, pixel_crc=None)

    def _code(self, planes: np.ndarray, model: Model, backend: Backend) -> int:
        """The code that suits a small image, or NO_CODE."""
        from ardmzip import choice

        return int(
            choice.best_codes(turned(planes, self._turn(planes))[None], model, backend, self.phase, self.search)[0]
        )

    def _turn(self, planes: np.ndarray) -> int:
        """How to lay out a picture: as asked for, where its size allows it, which may be that of a tile."""
        return self.turn if self.turn < turns(*planes.shape[1:]) else 0

    def _learns(self, loaded: Model) -> bool:
        """Whether the heads of a model shall learn: as asked for, or else as the model says."""
        if self.learn is not None:
            return self.learn
        if self.batches is not None and loaded.learns and not loaded.learn_by_default:
            raise OptionError(f"model {loaded.name} learns only if told to: batches need --learn (learn=True)")
        return loaded.learn_by_default

    def _stored(self, samples: np.ndarray, payload: bytes) -> Container:
        height, width, channels = samples.shape
        colours = (channels + 1) // 2 * 2 - 1
        return Container(width, height, colours, self.phase, NO_MODEL, b"", None, (), None, stored=payload)

    def encode_stack(self, stack: np.ndarray, forced: bool = False) -> list[Container]:
        """The bodies of small gray or RGB images (lockstep.suits) of 8 bits, uint8 [images, height, width, channels].

        They are those that ``encode`` gives with frozen heads and without limits to the number of network calls.
        """
        from ardmzip import choice, network

        bodies: list[Container | None] = [None] * len(stack)
        quick = [stored.raw(samples, 8) if forced else stored.quick(samples, 8) for samples in stack]
        for i, samples in enumerate(stack):
            if not forced and _is_next_to_nothing(quick[i], samples):
                bodies[i] = self._stored(samples, min(stored.smallest(samples, 8), quick[i], key=len))
        left = np.array([i for i, body in enumerate(bodies) if body is None], np.int64)
        if not len(left):
            return [body for body in bodies if body is not None]
        known = choice.candidates(self.brought) if self.model is None else [self.model]
        backend = network.backend(self.device, self.backend)
        planes = np.stack([to_planes(stack[i]) for i in left])
        best = choice.best_models(planes, known, backend)
        for model in known:
            own = [place for place, chosen in enumerate(best) if chosen is model]
            if not own:
                continue
            coded, estimates = self._in_step(planes[own], model, backend, estimate=not forced)
            for i, body, estimate in zip(left[own], coded, estimates, strict=True):
                body = replace(body, pixel_crc=None)
                samples, bound = stack[i], len(quick[i])
                if forced:
                    bodies[i] = self._smaller(body, self._stored(samples, quick[i]), 0)
                else:
                    bodies[i] = self._chosen(samples, 8, quick[i], bound, estimate, partial(_given, body))
        return [body for body in bodies if body is not None]

    def _in_step(
        self, planes: np.ndarray, model: Model, backend: Backend, estimate: bool
    ) -> tuple[list[Container], list[float]]:
        """lockstep.encode_estimated, with the codes that suit the images."""
        from ardmzip import choice, lockstep

        numbers = choice.best_codes(planes, model, backend, search=self.search)
        bodies: dict[int, Container] = {}
        estimates = np.zeros(len(planes))
        for part, own in ((numbers == NO_CODE, None), (numbers != NO_CODE, numbers)):
            if part.any():
                codes = None if own is None else own[part]
                coded, estimates[part] = lockstep.encode_estimated(
                    planes[part], model, backend, codes=codes, estimate=estimate
                )
                bodies |= dict(zip(np.flatnonzero(part).tolist(), coded, strict=True))
        return [bodies[i] for i in range(len(planes))], estimates.tolist()


def _given(body: Container) -> Container:
    return body


def _is_next_to_nothing(payload: bytes, samples: np.ndarray) -> bool:
    """Whether a payload leaves nothing for the network to gain."""
    return len(payload) <= _NOTHING + samples.size // _NEXT_TO_NOTHING


@dataclass
class Decoder:
    """How to decode.

    load: gives model and back end, for parts that need them. level: decode only the pixels of that level of the
    lattice, 0 or one that LatticeOrder.checked_level gives.
    """

    load: Callable[[], tuple[Model, Backend]]
    level: int = 0
    #: Threads to work on; None: as many as torch is set to.
    threads: int | None = None

    def decode(self, c: Container, extra: bool, depth: int, progress: Progress | None = None) -> np.ndarray:
        """The samples of a body, of ``depth`` bits; extra: whether alpha or padding is among them.

        Raises FormatError for what cannot be decoded; pixels that are wrong must be found by a checksum.
        """
        planes = c.channels * (1 if c.low is None else 2)
        done = planes / (planes + (0 if c.alpha is None else 1))
        within = done if c.low is None else done / 2
        bits = depth if c.low is None else 8
        if c.stored is None:
            samples = self._picture(c, bits, share_of(progress, 0, within))
        else:
            channels = c.channels + (1 if extra and c.alpha is None else 0)
            samples = subsampled(stored.decode(c.stored, c.height, c.width, channels, bits), c.phase, self.level)
        if c.low is not None:
            samples = self._with_low_bits(samples, c.low, share_of(progress, within, done))
        if c.alpha is not None:
            alpha = self.decode(c.alpha, False, depth, share_of(progress, done, 1))
            samples = np.concatenate([samples, alpha], axis=2)
        return samples

    def _picture(self, c: Container, depth: int, progress: Progress | None) -> np.ndarray:
        from ardmzip import codec

        unchecked = replace(c, pixel_crc=None)
        loaded, backend = self.load()
        if loaded.random_order:
            from ardmzip.ardm import codec as random_codec
            from ardmzip.ardm.model import require

            planes = random_codec.decode(unchecked, require(loaded), backend, progress, self.threads)
        elif c.random is not None:
            raise FormatError(f"model {loaded.name} does not code in a random order")
        else:
            planes = codec.decode(unchecked, loaded, backend, progress, level=self.level, threads=self.threads)
        if depth < 8 and int(planes.max()) >> depth:
            raise FormatError(f"damaged: a sample has more than {depth} bits")
        return interleaved(planes).reshape(*planes.shape[1:], c.channels)

    def _with_low_bits(self, high: np.ndarray, low: LowBits, progress: Progress | None) -> np.ndarray:
        samples = high.astype(np.uint16) << np.uint16(low.count)
        if low.body is not None:
            found = self.decode(low.body, False, low.count, progress)
            samples |= found + high if low.relative else found
        return samples << np.uint16(low.shift)


def subsampled(samples: np.ndarray, phase: tuple[int, int], level: int) -> np.ndarray:
    """The pixels of a level of the lattice: of samples [height, width, channels] every 2**level-th row and column, from
    ``phase`` on, or all of them for level 0."""
    return np.ascontiguousarray(samples[phase[0] :: 1 << level, phase[1] :: 1 << level]) if level else samples


def high_bits(samples: np.ndarray) -> np.ndarray:
    """The 8 highest bits of 16-bit samples that are used, uint8."""
    return (samples >> np.uint16(sum(_significant_bits(samples)))).astype(np.uint8)


def _significant_bits(samples: np.ndarray) -> tuple[int, int]:
    """(bits below the 8 highest that are used, bits that are 0 in all samples and below these) of 16-bit samples."""
    used = int(np.bitwise_or.reduce(samples, axis=None))
    shift = min(8, (used & -used).bit_length() - 1) if used else 0
    return max(0, (used >> shift).bit_length() - 8), shift


def share_of(progress: Progress | None, start: float, end: float) -> Progress | None:
    """Progress of a part that begins and ends at the given fractions of the whole."""
    return None if progress is None else lambda done: progress(start + (end - start) * done)
