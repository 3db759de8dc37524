"""What drives: frames, ego state, prompts, the answer grammar and predictions. Needs numpy only."""
