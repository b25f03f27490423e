"""Which gates an outcome has to pass: an output its agent's, a plan those of every plan; nothing else has any."""

from contracts.assignments import Assignment
from contracts.outcomes import Done, Outcome, Planned
from contracts.teams import Agent, Role, Team
from contracts.verdicts import Result, Verdict
from shared_state.plan_steps import check_inputs
from workers.gates.run import run_gates
from workers.gates.subject import Subject


def gate(assignment: Assignment, agent: Agent, team: Team, outcome: Outcome) -> tuple[Verdict, ...]:
    """Run them on what was made."""
    match outcome:
        case Done(output=output):
            schemas = team.schemas.get(assignment.agent)
            subject = Subject(
                output=output,
                input=assignment.input,
                inputs=assignment.inputs,
                agent=assignment.agent,
                output_schema=schemas.output if schemas is not None else None,
                output_bytes_limit=team.bounds.output_bytes,
            )
            return run_gates(agent.gates, subject)
        case Planned(plan=plan) if assignment.role is Role.PLANNER:
            known = [step for step in plan.steps if step.agent in team.agents]
            reasons = tuple(check_inputs(known, team))
            return (Verdict(gate="plan", result=Result.FAIL if reasons else Result.PASS, reasons=reasons),)
        case _:
            return ()
