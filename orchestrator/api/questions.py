"""Questions over HTTP: what steps ask, and what people answer."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from contracts.states import QuestionState
from orchestrator.api.bodies import parse_model
from orchestrator.api.pages import Page, PageQuery, cut, id_cursor
from orchestrator.api.schemas import body_of
from orchestrator.api.services import Body, Decider, Ours, Reader, parse_id
from shared_state import questions, views
from shared_state.engine import transaction
from shared_state.shapes import Question

router = APIRouter(tags=["questions"])


class QuestionQuery(PageQuery):
    state: QuestionState | None = None
    task: UUID | None = None


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str = Field(min_length=1, max_length=100_000)


@router.get("/questions", response_model=Page[Question])
def list_questions(caller: Reader, services: Ours, query: Annotated[QuestionQuery, Query()]) -> Any:
    """Newest first."""
    with transaction(services.engine) as connection:
        rows = views.questions.page(
            connection,
            caller.tenant,
            limit=query.limit + 1,
            before=id_cursor(query.cursor),
            state=query.state,
            task_id=query.task,
        )
    return cut(rows, query.limit, lambda row: row["id"])


@router.get("/questions/{question_id}", response_model=Question)
def read_question(question_id: str, caller: Reader, services: Ours) -> Any:
    with transaction(services.engine) as connection:
        return views.questions.read(connection, caller.tenant, parse_id(question_id, "question"))


@router.post("/questions/{question_id}/answer", response_model=Question, openapi_extra=body_of(Answer))
def answer(question_id: str, caller: Decider, body: Body, services: Ours) -> Any:
    """Answer it; its step goes on. 409 when it is not open any more."""
    which = parse_id(question_id, "question")
    text = parse_model(body, Answer).text
    services.wakeups.send(questions.answer(services.engine, caller.tenant, which, text, caller.name))
    with transaction(services.engine) as connection:
        return views.questions.read(connection, caller.tenant, which)
