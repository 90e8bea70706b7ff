"""What the program's own texts tell a person to type exists."""

from __future__ import annotations

import re
import shlex

from tests.docs import surface
from tests.docs.page import ROOT


def test_commands_in_messages_exist() -> None:
    told: dict[str, str] = {}
    for name in surface.tracked(".py"):
        if name.startswith(("proto/", "txcoord/", "sdk/", "rm_agent/")):
            for shown in re.findall(r"`(txcoord(?:-agent)? [^`\n]+)`", (ROOT / name).read_text()):
                told[shown] = surface.complaint_about(shlex.split(re.sub(r"\{[^}]*\}", "VALUE", shown)))
    assert len(told) > 3
    assert {shown: wrong for shown, wrong in told.items() if wrong} == {}
