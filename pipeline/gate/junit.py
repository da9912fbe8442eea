"""A check as JUnit XML: a test case per metric, which every CI shows."""

from xml.etree import ElementTree

from pipeline.gate.schema import Check, Judgement
from pipeline.report.widths import FORBIDDEN


def junit(check: Check) -> str:
    """Regressions are failures; what a decisive metric cannot tell is an error; the rest that is not known, skipped."""
    suite = ElementTree.Element("testsuite", {"name": _clean(f"edgesmith check {check.run} vs {check.baseline}")})
    suite.set("timestamp", check.created.partition("+")[0])
    undecided = check.outcome == "cannot tell"
    for judgement in check.judgements:
        _case(suite, check, judgement, undecided)
    counts = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    suite.set("tests", str(len(check.judgements)))
    for name, tag in counts.items():
        suite.set(name, str(len(suite.findall(f"testcase/{tag}"))))
    if check.notes:
        ElementTree.SubElement(suite, "system-out").text = _clean("\n".join(check.notes))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, check: Check, judgement: Judgement, undecided: bool) -> None:
    case = ElementTree.SubElement(suite, "testcase", {"classname": f"edgesmith.{check.baseline}"})
    case.set("name", judgement.metric)
    tag = {"regression": "failure", "not judged": "skipped"}.get(judgement.outcome)
    if judgement.outcome == "cannot tell":
        tag = "error" if undecided else "skipped"
    if tag is None:
        ElementTree.SubElement(case, "system-out").text = _clean(judgement.told)
    else:
        told = ElementTree.SubElement(case, tag, {"message": _clean(f"{judgement.outcome}: {judgement.told}")})
        told.text = _clean("\n".join(check.notes)) or None


def _clean(text: str) -> str:
    """Without what XML 1.0 cannot hold."""
    return FORBIDDEN.sub("�", text)
