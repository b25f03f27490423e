"""Team `survey`, and the example of how agents are written: plain functions from a typed input to a typed output.

`plan` walks the folder and makes one step per group of files, and one that joins them. `read` reads its files.
`join` gets what every `read` returned and writes the report. The gate `files` checks each fact against the files.
"""

from contracts import Context, Done, Plan, Step, Unable
from workers.teams.survey.assembly import assemble, degradation
from workers.teams.survey.graph import build_graph
from workers.teams.survey.group import facts_limit, group_files
from workers.teams.survey.reading import read_files
from workers.teams.survey.report import write_report
from workers.teams.survey.shapes import Group, Joint, Listing, Read, Survey, Wish
from workers.teams.survey.walk import package_prefix, resolve_root, walk


def plan(ctx: Context, wish: Wish) -> Plan | Unable:
    root = resolve_root(wish.path)
    if root is None:
        return Unable(reason=f"path: {wish.path!r} is not a folder that this worker can list")
    prefix = package_prefix(root)
    found = walk(root, wish.files_limit)
    groups = group_files(found.files)
    limit = facts_limit(len(found.files))

    readers = []
    for key, files in groups.items():
        group = Group(root=root, prefix=prefix, files=files, facts_limit=limit)
        # Optional: should a file kill its reader every time, the rest of the survey still gets its report.
        readers.append(Step(id=key, agent="read", input=group.model_dump(mode="json"), optional=True))

    listing = Listing(groups=groups, skipped=found.skipped, left_out=found.left_out)
    kept = ctx.artifacts.put(listing.model_dump_json().encode(), "application/json")
    joint = Joint(root=root, prefix=prefix, listing=kept)
    join = Step(id="report", agent="join", input=joint.model_dump(mode="json"), needs=tuple(groups))
    return Plan(steps=(*readers, join))


def read(ctx: Context, group: Group) -> Read | Done:
    output = read_files(group, ctx.progress)
    return Done(output=output, degraded=degradation(output))


def join(ctx: Context, joint: Joint) -> Survey | Done:
    listing = Listing.model_validate_json(ctx.artifacts.get(joint.listing))
    readings = {key: Read.model_validate(output) for key, output in ctx.inputs.items()}
    ctx.progress(f"joining {len(readings)} readings", 0.1)
    survey = assemble(joint, listing, readings)
    graph = build_graph(survey.files, joint.prefix)
    ctx.progress("writing the report", 0.6)
    report = write_report(survey, graph)
    files = {name: ctx.artifacts.put(data, media_type) for name, (data, media_type) in report.files.items()}
    return Done(output=Survey(summary=report.summary, files=files), degraded=survey.degraded)
