"""What `fdimlib claims` does: every verdict, judged anew, beside the recorded one."""

import json
import sys
from argparse import Namespace

from fdimlib.companion import findings
from fdimlib.companion.claims import THEORY, Judgement, judge, record
from fdimlib.companion.claims_file import FILE, settings


def claims(options: Namespace) -> int:
    """Print the verdicts; see `fdimlib claims --help`.

    Returns:
        0; 1 if a verdict is not the recorded one; 2 if they could not be judged, with the reason on
        standard error.
    """
    try:
        if options.record:
            return _record(options.id)
        judged = judge(*options.id)
    except (OSError, ValueError) as problem:
        print(f"claims: {problem}", file=sys.stderr)
        return 2
    print(_json(judged) if options.json else _table(judged))
    return int(not all(judgement.same for judgement in judged))


def _record(ids: list[str]) -> int:
    if ids:
        raise ValueError(f"--record: found {' '.join(ids)}; it takes no claim, and writes all")
    changed = record()
    for judgement in changed:
        for change in judgement.changes:
            print(f"{judgement.id}, {judgement.setting}: {change}")
    print(f"readings changed in {FILE.name}: {len(changed)}")
    if findings.write_readme():
        print("the table of findings in README.md was written anew")
    if changed:
        print("notebook 15 shows them: make refresh NB=notebooks/15_claims.ipynb")
    return 0


def _json(judged: list[Judgement]) -> str:
    told = [{"id": j.id, "setting": j.setting, "notebook": j.notebook,
             "change": j.change, "inputs": j.inputs, "recorded": j.recorded, "found": j.found,
             "same": j.same} for j in judged]
    return json.dumps(told, indent=1, ensure_ascii=False)


def _table(judged: list[Judgement]) -> str:
    lines: list[str] = []
    setting = None
    width = max(len(judgement.id) for judgement in judged)
    for j in sorted(judged, key=lambda j: [*settings(), THEORY].index(j.setting)):
        if j.setting != setting:
            setting = j.setting
            title = settings()[setting].title if setting != THEORY else setting
            lines += ["", f"{title[0].upper()}{title[1:]}"]
        mark = "as recorded" if j.same else "CHANGED    "
        lines.append(f"  {j.id.ljust(width)}  {mark}  {findings.words(j.found)}")
    lines += ["", f"{sum(j.same for j in judged)} of {len(judged)} as recorded"]
    lines += [f"CHANGED: {j.id}, {j.setting}: {change}" for j in judged for change in j.changes]
    return "\n".join(lines).strip("\n")
