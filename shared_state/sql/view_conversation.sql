-- What an agent's earlier attempts at a step have said to the model and heard, since the step was last redriven; the last
-- answer of this conversation also before that. `refused`: its output was; `answer`: what a person said to its question.
with redriven as (
    select coalesce(max(epoch), 0) as epoch from dead_letters where step_id = %(step_id)s and state = 'redriven'
), last as (
    select epoch, ordinal
    from model_calls
    where step_id = %(step_id)s and agent = %(agent)s and conversation = %(conversation)s and kept
    order by epoch desc, ordinal desc
    limit 1
)
select c.epoch, c.ordinal, c.ending, c.kept, c.told, c.tool_calls, c.input_tokens, c.output_tokens, c.request_sha256,
    c.response_sha256, l.ordinal is not null as is_last,
    c.epoch > (select epoch from redriven) as counted,
    l.ordinal is not null and exists (select 1 from proposals p
        where p.step_id = c.step_id and p.epoch = c.epoch and p.state = 'rejected') as refused,
    case when l.ordinal is not null then (select q.answer from questions q
        where q.step_id = c.step_id and q.epoch = c.epoch and q.state = 'answered') end as answer
from model_calls c
left join last l on l.epoch = c.epoch and l.ordinal = c.ordinal
where c.step_id = %(step_id)s and c.agent = %(agent)s
    and (l.ordinal is not null or c.epoch > (select epoch from redriven))
order by c.epoch, c.ordinal;
