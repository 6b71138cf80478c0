"""The engine thread: it alone touches the session, the slots and the running sequences."""

import logging
import queue
import time
from collections.abc import Callable, Iterable

from narthex_server.engine.decoder import AdapterPlaces, DecoderSession, Logits
from narthex_server.engine.messages import (
    Abort,
    Batch,
    Drain,
    Ended,
    LoadAdapter,
    Message,
    Settled,
    Stop,
    Submit,
    UnloadAdapter,
)
from narthex_server.engine.observer import EngineStats, StepReport
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.pace import Pace
from narthex_server.engine.request import Finished, FinishReason
from narthex_server.engine.runner import Runner
from narthex_server.engine.scheduler import Chunk, Scheduler
from narthex_server.engine.sequence import Sequence
from narthex_server.engine.slots import Slots
from narthex_server.engine.speculation import Draft, Speculation
from narthex_server.errors import InternalError, NarthexError, Unavailable
from narthex_server.worker import failure

log = logging.getLogger(__name__)


class EngineLoop:
    """Takes messages from `inbox`, hands batches to `send`; `run` is the thread's body."""

    def __init__(
        self,
        session: DecoderSession,
        options: EngineOptions,
        inbox: "queue.SimpleQueue[Message]",
        send: Callable[[Batch], None],
    ) -> None:
        self._session = session
        pace = Pace()
        self._slots = Slots(session, options.kv_tokens)
        self._speculation = Speculation(self._slots, pace, options.speculate)
        self._scheduler = Scheduler(self._slots, pace, self._speculation, options)
        self._runner = Runner(session, self._slots, pace)
        self._inbox = inbox
        self._send = send
        self._batch = Batch()
        self._leaving: list[UnloadAdapter] = []
        self._stopping = False
        self._audited = True
        self._steps = self._prompt_tokens = self._generated_tokens = 0
        self._adapters = self._adapted_tokens = 0

    def run(self) -> None:
        try:
            while not self._stopping:
                self._receive()
                try:
                    self._step()
                except Exception as error:
                    self._fail([*self._scheduler.running], error)
        except BaseException:  # the thread's outermost frame: nobody else would say why it ended
            log.exception("the engine thread died")
        finally:
            died = None if self._stopping else InternalError("the engine has died; the log says why", metadata={})
            for sequence in [*self._scheduler.running, *self._scheduler.waiting]:
                self._end(sequence, died or FinishReason.CANCELLED)
            self._batch.last = True
            self._flush()

    def _receive(self) -> None:
        """Handles all messages; waits for one if there is nothing to run."""
        idle = not (self._scheduler.running or self._scheduler.waiting)
        if idle and not self._audited:
            self._audit()
        try:
            self._handle(self._inbox.get(block=idle))
            while True:
                self._handle(self._inbox.get_nowait())
        except queue.Empty:
            return

    def _audit(self) -> None:
        """Checks that whatever ended left nothing behind; what is wrong is forgotten with all that is kept."""
        self._audited = True
        if wrong := self._slots.audit():
            log.error("the slots are not as they have to be and are reset: %s", "; ".join(wrong))
            try:
                self._slots.reset()
            except Exception as error:
                failure("engine", "the slots could not be reset", error)

    def _handle(self, message: Message) -> None:
        match message:
            case Submit():
                self._submit(message)
            case Abort(key):
                if sequence := self._scheduler.find(key):
                    self._end(sequence, FinishReason.CANCELLED)
            case LoadAdapter():
                self._load(message)
            case UnloadAdapter():
                self._leaving.append(message)
            case Drain():
                self._admit(time.monotonic())
                for sequence in [*self._scheduler.waiting]:
                    self._end(
                        sequence, Unavailable("the engine is shutting down; retry later or elsewhere", metadata={})
                    )
            case Stop():
                self._stopping = True

    def _submit(self, message: Submit) -> None:
        try:
            prefix_class = self._session.prefix_class(len(message.request.prompt))
            sequence = Sequence(message.key, message.request, message.submitted, prefix_class, message.mixture)
        except Exception as error:
            failed = failure("engine", f"{message.request.request_id} could not be taken in", error)
            self._batch.ended.append(Ended(message.key, None, error=failed))
        else:
            self._scheduler.waiting.join(sequence)

    def _load(self, message: LoadAdapter) -> None:
        def load(places: AdapterPlaces) -> None:
            places.load(message.place, message.adapter)
            self._adapters += 1

        self._change(message.ticket, load)

    def _unload(self) -> None:
        """Empties the places that nothing uses any more."""
        sequences = [*self._scheduler.running, *self._scheduler.waiting]
        for message in [*self._leaving]:
            if not any(s.mixture is not None and s.mixture.blend[message.place] for s in sequences):
                self._leaving.remove(message)
                self._adapters -= 1
                self._change(message.ticket, lambda places: places.unload(message.place))  # noqa: B023 (called at once)

    def _change(self, ticket: int, change: Callable[[AdapterPlaces], None]) -> None:
        """Changes the adapters; a failure is told to whoever waits for it."""
        failed = None
        try:
            if self._session.adapters is not None:
                change(self._session.adapters)
        except Exception as error:
            failed = failure("engine", "adapters could not be changed", error)
        self._batch.settled.append(Settled(ticket, failed))

    def _step(self) -> None:
        """Decodes, verifies drafts, then computes prompt chunks; each part's tokens leave before the next part runs."""
        started = time.monotonic()
        self._admit(started)
        self._follow()
        plan = self._scheduler.schedule()
        if plan.rows:
            self._attempt(plan.rows, lambda: self._runner.decode(plan.rows))
        for draft in plan.drafts:
            self._flush()
            self._verify(draft)
        for chunk in plan.chunks:
            self._flush()
            self._prefill(chunk)
        if plan.rows or plan.drafts or plan.chunks:
            self._audited = False
            self._steps += 1
            prefilled = sum(chunk.size for chunk in plan.chunks)
            rows = len(plan.rows) + len(plan.drafts)
            self._batch.step = StepReport(rows, prefilled, time.monotonic() - started)
        self._unload()
        self._flush()

    def _admit(self, now: float) -> None:
        self._scheduler.make_way()
        while (sequence := self._scheduler.next) is not None:
            if sequence.admitted is None:
                self._prompt_tokens += sequence.length
            try:
                self._scheduler.admit(now)
            except Exception as error:
                self._fail([sequence], error)
            self._scheduler.make_way()

    def _follow(self) -> None:
        """Copies to one of those that wait for another's prompt what is there: it is quick, but streams wait for it."""
        for sequence in [sequence for sequence in self._scheduler.running if sequence.leader]:
            try:
                if self._slots.follow(sequence):
                    return
            except Exception as error:
                self._fail([sequence], error)

    def _attempt(self, sequences: list[Sequence], compute: Callable[[], Iterable[Logits | None]]) -> None:
        """Computes and samples; a failure ends the sequences involved and nothing else."""
        try:
            rows = compute()
        except Exception as error:
            self._fail(sequences, error)
            return
        now = time.monotonic()
        for sequence, logits in zip(sequences, rows, strict=True):
            if logits is not None and (token := self._draw(sequence, logits)) is not None:
                self._accept(sequence, token, now)

    def _prefill(self, chunk: Chunk) -> None:
        """Computes a part of a prompt, and sends what was scored of it."""
        sequence = chunk.sequence
        self._attempt([sequence], lambda: [self._runner.prefill(chunk)])
        if sequence.scored is not None and (scores := sequence.scored.take()):
            self._batch.prompts.append((sequence.key, scores))

    def _verify(self, draft: Draft) -> None:
        """Draws from the logits of a draft's tokens as long as what is drawn is what was guessed, and once more."""
        sequence, before = draft.sequence, draft.sequence.accepted
        try:
            rows = self._runner.verify(draft)
        except Exception as error:
            self._fail([sequence], error)
            return
        now = time.monotonic()
        sequence.drafted += len(draft.tokens)
        for guess, logits in zip([*draft.tokens, None], rows, strict=True):
            self._slots.advance(sequence, 1)
            if (token := self._draw(sequence, logits)) is None:
                break
            sequence.accepted += token == guess
            if not self._accept(sequence, token, now) or token != guess:
                break
        self._speculation.tried(draft, sequence.accepted - before)

    def _draw(self, sequence: Sequence, logits: Logits) -> int | None:
        """The sequence's next token; None if it failed."""
        try:
            return sequence.choose(logits)
        except NarthexError as error:  # of its grammar or its options, which are its caller's
            self._end(sequence, error)
        except Exception as error:
            self._fail([sequence], error)
        return None

    def _accept(self, sequence: Sequence, token: int, now: float) -> bool:
        """Whether the sequence goes on after this token."""
        if token in sequence.request.stop_ids:
            self._end(sequence, FinishReason.STOP, token)
            return False
        sequence.append(token, now)
        self._generated_tokens += 1
        self._adapted_tokens += sequence.mixture is not None
        self._batch.tokens.append((sequence.key, token))
        if sequence.sampler.logprobs is not None:
            self._batch.logprobs.append((sequence.key, sequence.sampler.logprobs))
        if sequence.generated == sequence.request.max_tokens:
            self._end(sequence, FinishReason.LENGTH)
            return False
        return True

    def _fail(self, sequences: list[Sequence], error: Exception) -> None:
        names = ", ".join(sequence.request.request_id for sequence in sequences)
        failed = failure("engine", f"a step failed for {names or 'no request'}", error)
        for sequence in sequences:
            self._end(sequence, failed)

    def _end(self, sequence: Sequence, outcome: FinishReason | NarthexError, stop_id: int | None = None) -> None:
        failed = isinstance(outcome, NarthexError)
        report = sequence.report("error" if isinstance(outcome, NarthexError) else outcome.value, time.monotonic())
        try:
            self._scheduler.remove(sequence, keep=not failed)
        except Exception as error:  # it is forgotten all the same, and the slot is looked at when all is idle
            failure("engine", f"the slot of {sequence.request.request_id} could not be given back", error)
        if isinstance(outcome, NarthexError):
            self._batch.ended.append(Ended(sequence.key, report, error=outcome))
        else:
            self._batch.ended.append(Ended(sequence.key, report, finished=Finished(outcome, sequence.usage, stop_id)))

    def _flush(self) -> None:
        batch, self._batch = self._batch, Batch()
        if not (batch.tokens or batch.ended or batch.settled or batch.step or batch.last):
            return
        batch.stats = self._stats()
        try:
            self._send(batch)
        except RuntimeError:  # the event loop is closed: nobody is left to generate for
            log.warning("the event loop has closed under the engine")
            self._stopping = True

    def _stats(self) -> EngineStats:
        running = self._scheduler.running
        used = sum([sequence.cached for sequence in running])
        return EngineStats(
            slots=len(self._slots.held),
            running=len(running),
            waiting=len(self._scheduler.waiting),
            kept=self._slots.kept,
            kv_tokens_used=used,
            kv_tokens_kept=int(self._slots.held.sum()) - used,
            kv_tokens_capacity=self._slots.budget,
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._slots.found,
            generated_tokens=self._generated_tokens,
            dead_rows=self._runner.dead_rows,
            moves=self._slots.moves,
            preemptions=self._scheduler.preemptions,
            drafts=self._speculation.drafts,
            draft_tokens=self._speculation.proposed,
            accepted_tokens=self._speculation.accepted,
            adapters=self._adapters,
            adapted_tokens=self._adapted_tokens,
        )
