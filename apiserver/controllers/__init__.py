"""Control loops: a pure plan_* and a loop each; they see client and api only."""
