"""The team `bench`: a planner, executors and a reviewer that only hand on what they get."""

from contracts import Context, Judgement, Plan, Step
from tests.benchmarks.bodies import Item, do_step


class Order(Item):
    """`width` 1 is one reviewed step (W1); more is that many steps and a reviewed join of them (W2)."""

    width: int = 1


def plan(ctx: Context, order: Order) -> Plan:
    item = Item.model_validate(order.model_dump(exclude={"width"}))
    do_step(item, ctx.step.task_id, "plan")
    given = item.model_dump()
    if order.width == 1:
        return Plan(steps=(Step(id="work", agent="work_reviewed", input=given),))
    steps = tuple(Step(id=f"work{number}", agent="work", input=given) for number in range(order.width))
    join_step = Step(id="join", agent="join", needs=tuple(step.id for step in steps))
    return Plan(steps=(*steps, join_step))


def work(ctx: Context, item: Item) -> Item:
    do_step(item, ctx.step.task_id, ctx.step.key)
    return item


def join(ctx: Context) -> Item:
    """The first of what the others made; all of it has been read by now."""
    return Item.model_validate(next(iter(ctx.inputs.values())))


def judge(ctx: Context, output: Item) -> Judgement:
    do_step(output, ctx.step.task_id, f"{ctx.step.key} review")
    return Judgement.accept()
