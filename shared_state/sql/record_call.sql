-- Note one call to a model. Not fenced: that it was answered, and paid, is a fact whoever holds the step now.
insert into model_calls (step_id, epoch, ordinal, tenant_id, task_id, agent, conversation, model, settings, ending, kept,
    told, tool_calls, request_sha256, response_sha256, input_tokens, output_tokens, seconds)
select a.step_id, a.epoch, %(ordinal)s, a.tenant_id, a.task_id, a.agent, %(conversation)s, %(model)s, %(settings)s::jsonb,
    %(ending)s, %(kept)s, %(told)s, %(tool_calls)s, %(request)s, %(response)s, %(input_tokens)s, %(output_tokens)s,
    %(seconds)s
from attempts a
where a.step_id = %(step_id)s and a.epoch = %(epoch)s
on conflict (step_id, epoch, ordinal) do nothing;
