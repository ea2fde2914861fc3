"""Values to begin with, and what to change so that a run fits: the situation, the rules, and the answer."""
