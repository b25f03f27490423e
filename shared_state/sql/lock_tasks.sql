-- First in the lock order (tasks by id, then steps by id, then the steps they wake): whoever may end, grow or cancel a
-- task holds its row while deciding, so that two last steps cannot both believe another is still open.
select id, state from tasks where id = any (%(ids)s::uuid[]) order by id for no key update;
