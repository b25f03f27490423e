"""Team `assistant`: its agents are the prompts beside this file; the shapes of what they take and make are here."""
