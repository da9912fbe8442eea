"""A check as annotations of a GitHub workflow."""

from pipeline.gate.schema import Check


def annotations(check: Check) -> list[str]:
    """Workflow commands: an error per regression, a warning per metric that cannot be told, a notice if all is well."""
    kinds = {"regression": "error", "cannot tell": "warning"}
    found = [
        command(kinds[j.outcome], f"{j.metric}: {j.outcome}", f"{check.run} against {check.baseline}: {j.told}")
        for j in check.judgements
        if j.outcome in kinds
    ]
    if check.outcome == "cannot tell" or not found:
        kind = "notice" if check.outcome == "pass" else "error"
        text = "; ".join((f"{check.run} against {check.baseline} v{check.version}: {check.outcome}", *check.notes))
        found.append(command(kind, f"latency gate: {check.outcome}", text))
    return found


def command(kind: str, title: str, message: str) -> str:
    """One workflow command; nothing in title or message can end it or begin another.

    Escapes as actions/toolkit, packages/core/src/command.ts: % CR LF in data, and : , in properties.
    """
    return f"::{kind} title={_escaped(title, property_=True)}::{_escaped(message)}"


def _escaped(text: str, property_: bool = False) -> str:
    found = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return found.replace(":", "%3A").replace(",", "%2C") if property_ else found
