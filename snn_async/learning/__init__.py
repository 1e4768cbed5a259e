"""Training rules: each one object that owns its forward and backward."""

from snn_async.errors import OptionError
from snn_async.learning.rule import Rule
from snn_async.learning.through_the_loop import ThroughTheLoop
from snn_async.learning.unlayered import UnlayeredBackprop

__all__ = ["RULES", "Rule", "make_rule"]

RULES: dict[str, type[Rule]] = {rule.name: rule for rule in (UnlayeredBackprop, ThroughTheLoop)}


def make_rule(rule: str | Rule) -> Rule:
    """Return the rule for a name, or pass a rule through.

    Raises:
        OptionError: for anything else.
    """
    if isinstance(rule, Rule):
        return rule
    if not isinstance(rule, str) or rule not in RULES:
        raise OptionError(f"rule={rule!r} is neither one of {sorted(RULES)} nor a snn_async.learning.Rule")
    return RULES[rule]()
