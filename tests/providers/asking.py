"""One call to a model, as the product makes it."""

from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters


async def request(
    model: Model, messages: list[ModelMessage], parameters: ModelRequestParameters, *, stream: bool
) -> ModelResponse:
    if not stream:
        return await model_request(model, messages, model_request_parameters=parameters)
    async with model_request_stream(model, messages, model_request_parameters=parameters) as events:
        async for _ in events:
            pass
        return events.get()
