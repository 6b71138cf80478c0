"""Token ids, where a remote engine tells them: vLLM and llama-server do."""

from collections.abc import Mapping, Sequence
from typing import Any

from narthex_server.errors import Cancelled, FailedPrecondition
from narthex_server.pipelines.call import Aborted
from narthex_server.pipelines.models import RemoteModel
from narthex_server.pipelines.remote.body import message_json, tool_json
from narthex_server.pipelines.request import ChatRequest


class RemoteTokens:
    """A remote model's tokenizer: `/tokenize` and `/detokenize` beside the API, with both engines' fields at once."""

    def __init__(self, model: RemoteModel) -> None:
        self._model = model

    async def encode(self, text: str, add_special: bool = True) -> tuple[int, ...]:
        """The ids of a text. Errors: FailedPrecondition where the engine does not tell; those of the engine."""
        asked = {"prompt": text, "add_special_tokens": add_special, "content": text, "add_special": add_special}
        return self._ids(await self._ask("/tokenize", asked), bool(text))

    async def encode_chat(self, request: ChatRequest) -> tuple[int, ...]:
        """The ids of a conversation. Errors: as of `encode`."""
        asked: dict[str, Any] = {"messages": [*map(message_json, request.messages)], "add_generation_prompt": True}
        if request.tools:
            asked["tools"] = [*map(tool_json, request.tools)]
        if request.template_options:
            asked["chat_template_kwargs"] = dict(request.template_options)
        return self._ids(await self._ask("/tokenize", asked), True)

    async def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of ids, special tokens as the engine shows them. Errors: as of `encode`."""
        found = await self._ask("/detokenize", {"tokens": [*ids]})
        if isinstance(found, Mapping):
            for name in ("prompt", "content"):
                if isinstance(text := found.get(name), str):
                    return text
        raise self._untold()

    async def _ask(self, path: str, asked: dict[str, Any]) -> Any:
        handle = self._model.handle
        body = {"model": (await handle.known()).model, **asked}
        try:
            async with handle.call("") as call:
                with handle.exchange():
                    return await handle.ask(call, path, body)
        except FailedPrecondition as error:
            raise (self._untold() if error.reason == "REMOTE_NOT_FOUND" else error) from error
        except Aborted as error:
            raise Cancelled("the model is not served any more") from error

    def _ids(self, found: Any, some: bool) -> tuple[int, ...]:
        ids = found.get("tokens") if isinstance(found, Mapping) else None
        if not isinstance(ids, list) or (some and not ids) or any(type(token) is not int or token < 0 for token in ids):
            raise self._untold()
        return tuple(ids)

    def _untold(self) -> FailedPrecondition:
        name = self._model.name
        return FailedPrecondition(
            f"model {name!r} is remote, and its engine does not tell token ids; ask for text instead",
            reason="REMOTE_MODEL",
            metadata={"model": name},
        )
